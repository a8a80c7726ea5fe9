"""Time-outs of plain HTTP, with short values, and what the access log says of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted
from tests.support.deadline import SCALE, eventually, quiet_for, within
from tests.support.gateway import Gateway, route
from tests.support.raw import Connection, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

SET_SECONDS = 1.0
"""Every time-out below, where it is not off."""

SLACK_SECONDS = 8 * SCALE
"""Deadlines are looked at four times a second; then there is this machine."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, scripted: Scripted) -> Gateway:
    return await start_shared_gateway(
        {
            "timeouts": {"response": "1s", "request_body": "1s", "http_idle": "1s", "write_stall": "1s"},
            # Connections that one test's script holds are not for the next one.
            "upstreams": {"scripted": {"backends": [scripted.address], "pool": "off"}},
            "routes": [
                route("off", "scripted", timeouts={"response": "off"}),
                route("set", "scripted"),
                # Where a time-out counts that is not the first to pass.
                route("stall", "scripted", timeouts={"response": "1h", "request_body": "1h"}),
            ],
        }
    )


@asynccontextmanager
async def held(scripted: Scripted, says: bytes = b"") -> AsyncIterator[asyncio.Future[Connection]]:
    """The backend's end of the next request, when its head was read, and when what it was to say was said."""
    arrived: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def script(connection: Connection) -> None:
        await scripted.request(connection)
        await connection.send(says)
        arrived.set_result(connection)
        await over.wait()

    scripted.plays(script)
    yield arrived
    over.set()


async def ends_in_time(connection: Connection, start: float, seconds: float = SET_SECONDS) -> bytes:
    """What comes on a connection until it ends, which it has to do after just so long."""
    data = await connection.ends(seconds + SLACK_SECONDS)
    took(start, seconds)
    return data


def took(start: float, seconds: float = SET_SECONDS) -> None:
    assert 0.5 * seconds < time.monotonic() - start < seconds + SLACK_SECONDS


async def cut(gateway: Gateway, path: str) -> tuple[Any, ...]:
    """What the log says of a request: status, who cut it short, why, and what the client was told."""
    record = await gateway.logged(event="http", path=path)
    return record["status"], record["initiator"], record["cause"], record["reason"]


def takes_nothing(connection: Connection) -> None:
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every transport over TCP has it


# --- response ---------------------------------------------------------------------------------------------------------


async def test_an_answer_that_does_not_begin(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    client = await open_connection(gateway)
    async with held(scripted) as arrived:
        await client.send(request("/set/no-answer"))
        start = time.monotonic()
        backend = await within(arrived, "the request")
        answer = await client.answer()
        took(start)
        assert await backend.ends() == b""
    reason = "the backend did not answer in time"
    assert answer.status == 504
    assert reason in answer.text
    assert await cut(gateway, "/set/no-answer") == (504, "backend", "timeout", reason)
    scripted.answers(OK)
    await client.send(request("/set/next"))  # the client's connection is as good as before
    assert (await client.answer()).text == "ok"


async def test_a_stream_that_is_silent_is_cut(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    client = await open_connection(gateway)
    async with held(scripted, HEAD) as arrived:
        await client.send(request("/set/silent-stream"))
        backend = await within(arrived, "the request")
        assert (await client.head()).status == 200
        for _ in range(4):  # each event gives it as long again
            await quiet_for(0.4 * SET_SECONDS)
            await backend.send(b"1\r\nx\r\n")
            assert await client.chunk() == b"x"
        start = time.monotonic()
        assert await ends_in_time(client, start) == b""  # and no last chunk, which would make it look whole
        assert await backend.ends() == b""
    assert await cut(gateway, "/set/silent-stream") == (200, "backend", "timeout", None)
    record = await gateway.logged(event="http", path="/set/silent-stream")
    assert record["bytes"] == 4 * len(b"1\r\nx\r\n")
    assert record["first_byte"] < 0.5 < 2.5 * SET_SECONDS < record["duration"]


async def test_off_keeps_what_is_silent(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """A poll before its answer, and a stream between two events."""
    poll, stream = await open_connection(gateway), await open_connection(gateway)
    async with held(scripted) as arrived:
        await poll.send(request("/off/poll"))
        poll_backend = await within(arrived, "the poll")
        async with held(scripted, HEAD) as arrived:
            await stream.send(request("/off/stream"))
            stream_backend = await within(arrived, "the request")
            assert (await stream.head()).status == 200
            await quiet_for(2.5 * SET_SECONDS)  # what would have cut them
            await poll_backend.send(OK)
            assert (await poll.answer()).text == "ok"
            await stream_backend.send(b"1\r\nx\r\n0\r\n\r\n")
            assert await stream.chunked() == b"x"
    assert await cut(gateway, "/off/stream") == (200, None, None, None)


# --- request_body -----------------------------------------------------------------------------------------------------


async def test_a_body_that_stops_coming(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    client = await open_connection(gateway)
    async with held(scripted) as arrived:
        await client.send(request("/set/body", "Content-Length: 10", method="POST"))
        backend = await within(arrived, "the request")
        for _ in range(3):  # each piece gives it as long again
            await quiet_for(0.4 * SET_SECONDS)
            await client.send(b"x")
            assert await backend.read(1) == b"x"
        start = time.monotonic()
        answer = await client.answer()
        took(start)
        assert await backend.ends() == b""
    assert (answer.status, answer.head.value("Connection")) == (408, "close")
    assert await client.ends() == b""
    reason = "the request's body did not come in time"
    assert await cut(gateway, "/set/body") == (408, "client", "timeout", reason)
    assert (await gateway.logged(event="http", path="/set/body"))["request_bytes"] == 3


# --- http_idle --------------------------------------------------------------------------------------------------------


async def test_a_connection_between_two_requests(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    scripted.answers(OK)
    client = await open_connection(gateway)
    for _ in range(5):  # each request gives it as long again
        await client.send(request("/set/idle"))
        assert (await client.answer()).text == "ok"
        start = time.monotonic()
        await quiet_for(0.35 * SET_SECONDS)
    assert await client.rest(SET_SECONDS + SLACK_SECONDS) == b""  # FIN, and no word
    took(start)
    await eventually(lambda: len(gateway.log_records(client=client.name)) == 5, "the lines")


# --- write_stall ------------------------------------------------------------------------------------------------------


async def test_a_client_that_takes_nothing_of_a_stream(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    client = await open_connection(gateway)
    takes_nothing(client)
    async with held(scripted, HEAD) as arrived:
        await client.send(request("/off/stalled"))
        backend = await within(arrived, "the request")
        backend.writer.write(b"ffffff\r\n" + bytes(0xFFFFFF))
        start = time.monotonic()
        await ends_in_time(backend, start)
    assert await cut(gateway, "/off/stalled") == (200, "client", "write_stall", None)


async def test_a_client_that_takes_no_answers(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    """Each answer comes whole: there is nothing more of it to wait for but the client."""
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + bytes(60000))
    client = await open_connection(gateway)
    takes_nothing(client)
    await client.send(400 * request("/off/answers"))
    record = await gateway.logged(event="http", path="/off/answers", cause="write_stall")
    assert (record["status"], record["initiator"]) == (200, "client")


async def test_a_backend_that_takes_nothing(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    client = await open_connection(gateway)
    async with held(scripted) as arrived:
        await client.send(request("/stall/upload", f"Content-Length: {2**30}", method="POST"))
        backend = await within(arrived, "the request")
        takes_nothing(backend)
        client.writer.write(bytes(2**24))
        start = time.monotonic()
        head = await client.head(SET_SECONDS + SLACK_SECONDS)
        took(start)
        backend.reset()
    assert head.status == 504
    reason = "the backend does not take the request"
    assert await cut(gateway, "/stall/upload") == (504, "backend", "write_stall", reason)
    client.reset()


async def test_a_backend_that_answers_and_takes_nothing(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    """The answer has begun, so the client cannot be told; the log can."""
    client = await open_connection(gateway)
    async with held(scripted, HEAD + b"1\r\nx\r\n") as arrived:
        await client.send(request("/stall/both", f"Content-Length: {2**30}", method="POST"))
        backend = await within(arrived, "the request")
        takes_nothing(backend)
        assert (await client.head()).status == 200
        assert await client.chunk() == b"x"
        client.writer.write(bytes(2**24))
        start = time.monotonic()
        assert await ends_in_time(client, start) == b""
        backend.reset()
    assert await cut(gateway, "/stall/both") == (200, "backend", "write_stall", None)
