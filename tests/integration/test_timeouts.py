"""Each time-out of the contract, with short values. ``request_head`` is in ``test_bad_input``."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted
from tests.support.deadline import SCALE, quiet_for, within
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import Gateway, route
from tests.support.raw import Connection, handshake, request, switching

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLACK_SECONDS = 8 * SCALE
"""The sweep looks once a second; then there is this machine."""


@pytest.fixture(scope="module")
def blackhole() -> Iterator[str]:
    """An address that never answers a SYN: what listens there has a full queue and never accepts."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        host, port = listening.getsockname()
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((host, port))
            fillers.append(filler)
        yield f"{host}:{port}"
        for filler in fillers:
            filler.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    start_shared_gateway: StartGateway, shared_backends: Backends, scripted: Scripted, blackhole: str
) -> Gateway:
    echo = await shared_backends.echo()

    def timed(name: str, upstream: str = "scripted", **timeouts: str) -> dict[str, object]:
        return route(name, upstream, timeouts=timeouts)

    return await start_shared_gateway(
        {
            "timeouts": {"connect": "500ms", "close": "500ms"},
            "upstreams": {
                "scripted": {"backends": [scripted.address]},
                "blackhole": {"backends": [blackhole]},
                "blackhole-first": {"backends": [blackhole, echo.address], "balance": "round_robin"},
                "echo": {"backends": [echo.address]},
            },
            "routes": [
                timed("blackhole-first", "blackhole-first"),
                timed("blackhole", "blackhole"),
                timed("handshake", handshake="500ms"),
                timed("close"),
                route("half-closed", "scripted", upgrades=["tcp"], timeouts={"close": "1s"}),
                timed("idle", idle="1500ms"),
                timed("lifetime", max_lifetime="1s"),
                timed("stall", write_stall="1s"),
                timed("off", idle="off", max_lifetime="off"),
            ],
        }
    )


async def tunnel(
    gateway: Gateway, open_connection: Open, scripted: Scripted, path: str
) -> tuple[Connection, Connection]:
    """Both ends of a tunnel."""
    arrived: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(switching())
        arrived.set_result(backend)
        await within(backend.writer.wait_closed(), "the test to close", 60)

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(handshake(path))
    assert (await client.head()).status == 101
    return client, await arrived


async def test_connect(gateway: Gateway, open_connection: Open, blackhole: str) -> None:
    before = await gateway.scrape()
    start = time.monotonic()
    client = await open_connection(gateway)
    await client.send(handshake("/blackhole/"))
    assert (await client.answer()).status == 504
    assert 0.4 < time.monotonic() - start < 0.5 + SLACK_SECONDS
    record = await gateway.logged(event="handshake", client=client.name)
    assert (record["result"], record["status"], record["backend"]) == ("timeout", 504, blackhole)
    await gateway.counts(before, "gateway_handshakes_total", route="blackhole", result="timeout")
    await gateway.counts(before, "gateway_backend_connect_errors_total", backend=blackhole, reason="timeout")

    plain = await open_connection(gateway)
    await plain.send(request("/blackhole/"))
    assert (await plain.answer()).status == 504


async def test_a_backend_that_does_not_accept_is_passed_over(gateway: Gateway, open_connection: Open) -> None:
    for _ in range(2):
        client = await open_connection(gateway)
        await client.send(handshake("/blackhole-first/"))
        assert (await client.head()).status == 101


@pytest.mark.parametrize("piece", [b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"])
async def test_handshake(gateway: Gateway, open_connection: Open, scripted: Scripted, piece: bytes) -> None:
    scripted.answers(piece, hold=True)
    start = time.monotonic()
    client = await open_connection(gateway)
    await client.send(handshake("/handshake/"))
    assert (await client.answer()).status == 504
    assert 0.4 < time.monotonic() - start < 0.5 + SLACK_SECONDS
    assert (await gateway.logged(event="handshake", client=client.name))["result"] == "timeout"


async def test_close(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """A side that says goodbye is not kept waiting for one that never does."""
    tunnels = {how: await tunnel(gateway, open_connection, scripted, f"/close/{how}") for how in ("close_frame", "fin")}
    start = time.monotonic()
    await tunnels["close_frame"][0].send(from_client(CLOSE, close(1000)))
    assert await read_frame(tunnels["close_frame"][1]) == (CLOSE, close(1000))
    tunnels["fin"][0].half_close()
    for how, ends in tunnels.items():
        for end in ends:
            assert await end.ends() == b""
        assert 0.4 < time.monotonic() - start < 0.5 + SLACK_SECONDS
        record = await gateway.logged(event="tunnel_end", path=f"/close/{how}")
        assert (record["initiator"], record["cause"]) == ("client", how)


async def test_close_of_another_protocol(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """A client that has said all it will is sent all that the backend has to say, however long that takes."""
    pieces = [b"%d" % n for n in range(8)]

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
        assert await backend.ends() == b"all"
        for piece in pieces:
            await quiet_for(0.3)  # well within the time-out each, and together more than twice as long
            await backend.send(piece)
        backend.writer.close()

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(request("/half-closed", "Upgrade: tcp", "Connection: Upgrade"))
    assert (await client.head()).status == 101
    await client.send(b"all")
    client.half_close()
    assert await client.ends() == b"".join(pieces)
    record = await gateway.logged(event="tunnel_end", path="/half-closed")
    assert (record["initiator"], record["cause"]) == ("client", "fin")


async def test_idle(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """Pings keep nothing from being idle."""
    client, backend = await tunnel(gateway, open_connection, scripted, "/idle/")
    await client.send(from_client(TEXT, b"last"))
    assert await read_frame(backend) == (TEXT, b"last")
    start = time.monotonic()
    closed: tuple[int, bytes] | None = None
    while closed is None:
        assert time.monotonic() - start < 1.5 + SLACK_SECONDS
        ping = from_client(PING, b"p")
        await client.send(ping)
        opcode, payload = await read_frame(backend)
        if opcode == CLOSE:
            closed = opcode, payload
        else:
            await quiet_for(0.1)  # the pace of the pings
    assert closed == (CLOSE, close(1001))
    assert await read_frame(client) == (CLOSE, close(1001))
    assert time.monotonic() - start > 1.4
    await client.send(from_client(CLOSE, close(1001)))
    await backend.send(frame(CLOSE, close(1001)))
    assert await client.ends() == b""
    record = await gateway.logged(event="tunnel_end", path="/idle/")
    assert (record["initiator"], record["cause"], record["gateway_close_code"]) == ("gateway", "idle", 1001)


async def test_what_keeps_a_tunnel_open(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """Data, where there is a time-out for silence; nothing need, where it is off."""
    quiet_client, quiet_backend = await tunnel(gateway, open_connection, scripted, "/off/")
    client, backend = await tunnel(gateway, open_connection, scripted, "/idle/busy")
    for number in range(8):
        await backend.send(frame(TEXT, str(number).encode()))
        assert await read_frame(client) == (TEXT, str(number).encode())
        await quiet_for(0.35)  # the pace of the data: 2.8 s in all
    assert await quiet_client.is_quiet(0)
    await quiet_backend.send(frame(TEXT, b"still here"))
    assert await read_frame(quiet_client) == (TEXT, b"still here")


async def test_max_lifetime(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """However busy it is; and never inside a frame."""
    client, backend = await tunnel(gateway, open_connection, scripted, "/lifetime/")
    start = time.monotonic()
    whole = frame(BINARY, b"x" * 1000, fin=False)
    await backend.send(whole[:500])
    assert await client.read(500) == whole[:500]
    assert await read_frame(backend) == (CLOSE, close(1012))  # the client's direction is at a boundary
    assert 0.9 < time.monotonic() - start < 1 + SLACK_SECONDS
    assert await client.is_quiet(0.1)
    await backend.send(whole[500:] + frame(CONTINUATION, b"never to be seen"))
    assert await client.read(504) == whole[500:]
    assert await read_frame(client) == (CLOSE, close(1012))
    await client.send(from_client(CLOSE, close(1012)))
    await backend.send(frame(CLOSE, close(1012)))
    assert await client.ends() == b""
    record = await gateway.logged(event="tunnel_end", path="/lifetime/")
    assert (record["initiator"], record["cause"], record["gateway_close_code"]) == ("gateway", "max_lifetime", 1012)


async def test_endpoints_that_do_not_answer_a_close_are_cut(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    client, backend = await tunnel(gateway, open_connection, scripted, "/lifetime/deaf")
    assert await read_frame(client) == (CLOSE, close(1012))
    assert await read_frame(backend) == (CLOSE, close(1012))
    assert await client.ends(0.5 + SLACK_SECONDS) == b""
    assert await backend.ends() == b""


async def test_write_stall(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """A side that takes nothing is cut; the other is told with a Close frame."""
    tunnels = {
        side: await tunnel(gateway, open_connection, scripted, f"/stall/{side}") for side in ("client", "backend")
    }
    start = time.monotonic()

    async def stall(side: str, client: Connection, backend: Connection) -> None:
        stalled, sender = (client, backend) if side == "client" else (backend, client)
        stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every transport over TCP has it
        piece = frame(BINARY, bytes(1024 * 1024), None if side == "client" else b"mask")
        for _ in range(16):
            sender.writer.write(piece)
        assert await read_frame(sender) == (CLOSE, close(1001))
        assert 0.9 < time.monotonic() - start < 1 + SLACK_SECONDS
        record = await gateway.logged(event="tunnel_end", path=f"/stall/{side}")
        assert (record["initiator"], record["cause"]) == ("gateway", "write_stall")
        client.reset()
        backend.reset()

    await asyncio.gather(*(stall(side, *ends) for side, ends in tunnels.items()))
