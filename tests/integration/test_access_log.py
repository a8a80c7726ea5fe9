"""The access log: one line for each handshake, each tunnel's end and each plain request, whole and in order."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import eventually
from tests.support.frames import CLOSE, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import Gateway, to_one
from tests.support.raw import Connection, handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


async def one_tunnel(gateway: Gateway, open_connection: Open, path: str) -> Connection:
    """A tunnel that was opened, used, and closed by its client."""
    client = await open_connection(gateway)
    await client.send(handshake(path, "Sec-WebSocket-Protocol: v10.stomp"))
    assert (await client.head()).status == 101
    await client.echoes(from_client(TEXT, b"hello"), frame(TEXT, b"hello"))
    await client.send(from_client(CLOSE, close(1000)))
    assert await read_frame(client) == (CLOSE, close(1000))
    await client.close()
    return client


def lines_of(*files: Path) -> list[str]:
    """Lines of files, as far as those are there."""
    return [line for file in files if file.exists() for line in file.read_text().splitlines()]


async def test_what_a_line_says(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    client = await one_tunnel(gateway, open_connection, "/logged?token=secret")
    end = await gateway.logged(event="tunnel_end")
    opened = await gateway.logged(event="handshake")
    shared = {
        "client": client.name,
        "route": "all",
        "backend": echo.address,
        "host": "gateway.test",
        "path": "/logged",
        "request_id": opened["request_id"],
    }
    for record in (opened, end):
        assert shared.items() <= record.items()
        assert datetime.fromisoformat(record["time"]).tzinfo is not None
    assert (opened["result"], opened["status"]) == ("upgraded", 101)
    assert 0 < opened["duration"] < 5
    assert (
        end.items()
        >= {
            "subprotocol": "v10.stomp",
            "initiator": "client",
            "cause": "close_frame",
            "cut_side": None,
            "silence": None,
            "close_seen": "both",
            "truncated": None,
            "client_close_code": 1000,
            "backend_close_code": 1000,
            "client_bytes": len(from_client(TEXT, b"hello")) + 8,
            "backend_bytes": len(frame(TEXT, b"hello")) + 4,
            "client_frames": 2,
            "backend_frames": 2,
        }.items()
    )
    assert 0 <= end["duration"] < 5
    assert [json.loads(line)["event"] for line in gateway.stdout.lines] == ["handshake", "tunnel_end"]
    assert "secret" not in "\n".join(gateway.stdout.lines)  # a query may hold a token


async def test_what_the_line_of_a_side_that_was_cut_says(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, keepalive={"client": "off", "backend": "off"}))
    client = await open_connection(gateway)
    await client.send(handshake("/cut"))
    assert (await client.head()).status == 101
    await client.echoes(from_client(TEXT, b"hello"), frame(TEXT, b"hello"))
    assert await client.is_quiet(1.5)
    client.reset()
    end = await gateway.logged(event="tunnel_end")
    assert (end["initiator"], end["cause"], end["cut_side"], end["close_seen"]) == ("client", "reset", "client", None)
    assert 1.4 < end["silence"] < 5
    assert end["client_idle"] >= end["silence"]  # the echo came after the message
    assert (end["last_direction"], end["last_age"]) == ("backend_to_client", end["backend_idle"])
    assert end["silence"] == pytest.approx(end["backend_idle"], abs=0.01)
    assert (end["client_queued"], end["backend_queued"]) == (0, 0)


async def test_what_a_client_sends_cannot_forge_a_line(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    client = await open_connection(gateway)
    path = '/a"}\\u000a{"event":"forged%0a\x7f'.replace("\x7f", "%7f")
    await client.send(request(path))
    await client.answer()
    record = await gateway.logged(client=client.name)
    assert record["event"] == "http"
    assert all(json.loads(line)["event"] != "forged" for line in gateway.stdout.lines)


async def test_text(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, access_log={"format": "text"}))
    client = await one_tunnel(gateway, open_connection, "/a%20b")
    line = await gateway.stdout.containing(" tunnel_end ")
    assert f" client={client.name} " in line
    assert " route=all " in line
    assert " cause=close_frame " in line
    assert " result=upgraded " in await gateway.stdout.containing(" handshake ")


async def test_a_file_that_is_rotated(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    """USR1 after the file was moved away, as logrotate does it; no line is lost."""
    echo = await backends.echo()
    log = tmp_path / "access.log"
    gateway = await start_gateway(to_one(echo.address, workers=2, access_log={"path": str(log)}))
    await one_tunnel(gateway, open_connection, "/before")
    await eventually(lambda: len(lines_of(log)) == 2, "two lines")
    old = log.rename(tmp_path / "access.log.1")
    gateway.process.signal(signal.SIGUSR1)
    await eventually(log.exists, "the new file")
    number = 0
    while not lines_of(log) or number < 10:  # both workers have opened it after a while
        number += 1
        await one_tunnel(gateway, open_connection, f"/after/{number}")
    wanted = 2 * (1 + number)
    lines = await eventually(lambda: found if len(found := lines_of(old, log)) >= wanted else None, "every line")
    records = [json.loads(line) for line in lines]
    assert len(records) == wanted
    paths = [record["path"] for record in records if record["event"] == "tunnel_end"]
    assert sorted(paths) == sorted(["/before", *(f"/after/{at + 1}" for at in range(number))])
    assert not gateway.stdout.lines


async def test_off(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, access_log="off"))
    before = await gateway.scrape()
    await one_tunnel(gateway, open_connection, "/unseen")
    await gateway.counts(before, "gateway_tunnels_closed_total")
    gateway.term()
    await gateway.exits(0)
    assert not gateway.stdout.lines


async def test_nothing_is_lost_when_the_gateway_ends(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, workers=2, drain={"period": "1s"}))
    clients = [await open_connection(gateway) for _ in range(200)]
    for client in clients:
        client.writer.write(handshake("/many"))
    for client in clients:
        assert (await client.head()).status == 101
    gateway.term()
    for client in clients:
        assert await read_frame(client) == (CLOSE, close(1012))
        await client.close()
    await gateway.exits(0)
    await gateway.stdout.end()
    assert len(gateway.log_records(event="handshake")) == 200
    assert len(gateway.log_records(event="tunnel_end", cause="drain")) == 200


async def test_a_log_that_nobody_reads_stops_no_tunnel(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    """A pipe whose reader sleeps: lines wait, tunnels do not."""
    pipe = tmp_path / "log.pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        web = await backends.web()
        gateway = await start_gateway(to_one(web.address, access_log={"path": str(pipe)}))
        client = await open_connection(gateway)
        for number in range(600):  # 200 bytes each, and a pipe holds 64 KiB
            await client.send(request(f"/x/{number}/" + "p" * 100))
            assert (await client.answer()).status == 200
    finally:
        os.close(reader)
