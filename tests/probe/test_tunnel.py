"""Tunnels over real sockets, to servers that end them in every way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.probe import tunnel as tunnel_module
from gateway.probe.outcomes import Cut, Failed, Outcome, Rung, Survived, Talked
from gateway.probe.target import parse_target
from gateway.probe.tunnel import CannotOpen, Tunnel, hold, open_tunnel
from gateway.protocol.websocket import accept_of
from tests.conftest import Backends
from tests.support.deadline import SCALE, quiet_for, turn, within
from tests.support.frames import CLOSE, PING, PONG, TEXT, close, frame, read_frame
from tests.support.ports import free_port
from tests.support.raw import Connection, switching

pytestmark = pytest.mark.asyncio(loop_scope="module")

CERTIFICATE = Path(__file__).parent / "localhost.pem"
Serve = Callable[[Connection], Awaitable[None]]
Script = Callable[..., Awaitable[str]]


async def accept(connection: Connection) -> None:
    head = await connection.head()
    key = head.value("sec-websocket-key")
    assert key is not None
    await connection.send(switching(accept=accept_of(key.encode()).decode()))


async def answer_pings(connection: Connection) -> None:
    """Until a Close comes, which is echoed, or the end."""
    with contextlib.suppress(AssertionError, ConnectionError):
        while True:
            opcode, payload = await read_frame(connection)
            if opcode == PING:
                await connection.send(frame(PONG, payload))
            elif opcode == CLOSE:
                await connection.send(frame(CLOSE, payload))
                return


@pytest_asyncio.fixture(loop_scope="module", params=["plain", "tls"])
async def serve(request: pytest.FixtureRequest, backends: Backends) -> AsyncIterator[Script]:
    """Starts a server that plays a script once hands are shaken, without TLS and with; its URL."""
    servers, writers = [], []

    async def start(script: Serve) -> str:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            connection = Connection(reader, writer)
            await accept(connection)
            await script(connection)

        port = free_port()
        servers.append(await asyncio.start_server(accepted, "127.0.0.1", port, ssl=server_context(request.param)))
        return f"{'wss' if request.param == 'tls' else 'ws'}://127.0.0.1:{port}/"

    yield start
    for writer in writers:
        writer.transport.abort()
    for server in servers:
        server.close()
        await server.wait_closed()
    await turn()


@pytest.fixture(autouse=True)
def _short_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "CLOSE_SECONDS", 0.1)


def server_context(kind: str) -> ssl.SSLContext | None:
    if kind == "plain":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


async def open_to(url: str) -> Tunnel:
    target = parse_target(url)
    return await open_tunnel(target, None, trusting() if target.tls else None)


async def held(
    url: str, seconds: float, pong_timeout: float = 5.0, answers_pings: bool = True, busy: float = 0
) -> Outcome:
    """What becomes of a tunnel that is held silent, or kept busy by a Ping every ``busy`` seconds."""
    tunnel = await open_to(url)
    try:
        rung = Rung(seconds, "busy", busy) if busy else Rung(seconds, "ladder")
        return await within(hold(tunnel, rung, pong_timeout, answers_pings), "a tunnel's outcome")
    finally:
        await tunnel.close()


def is_near(seconds: float, expected: float) -> bool:
    return expected - 0.02 <= seconds <= expected + 0.4 * SCALE


# --- what becomes of a tunnel -------------------------------------------------------------------------------------


async def test_a_ping_that_is_answered(serve: Script) -> None:
    outcome = await held(await serve(answer_pings), 0.3)
    assert isinstance(outcome, Survived)
    assert is_near(outcome.silence_seconds, 0.3)


async def test_a_ping_that_is_not_answered(serve: Script) -> None:
    async def swallow(connection: Connection) -> None:
        await connection.ends()

    outcome = await held(await serve(swallow), 0.2, pong_timeout=0.3)
    assert isinstance(outcome, Cut)
    assert (outcome.ended_by, outcome.by_itself) == ("silence", False)
    assert is_near(outcome.silence_seconds, 0.2)
    assert is_near(outcome.age_seconds, 0.5)


async def test_an_unasked_fin(serve: Script) -> None:
    async def leave(connection: Connection) -> None:
        await quiet_for(0.3)
        connection.writer.close()

    outcome = await held(await serve(leave), 5)
    assert isinstance(outcome, Cut)
    assert (outcome.ended_by, outcome.by_itself, outcome.close_code) == ("fin", True, None)
    assert is_near(outcome.silence_seconds, 0.3)


async def test_a_fin_below_tls_that_says_nothing(serve: Script) -> None:
    """As a proxy ends a connection whose TLS it does not speak: FIN without close_notify."""

    async def leave(connection: Connection) -> None:
        await quiet_for(0.3)
        duplicate = socket.socket(fileno=socket.dup(connection.socket.fileno()))
        duplicate.shutdown(socket.SHUT_WR)
        duplicate.close()

    outcome = await held(await serve(leave), 5)
    assert isinstance(outcome, Cut)
    assert (outcome.ended_by, outcome.by_itself) == ("fin", True)
    assert is_near(outcome.silence_seconds, 0.3)


async def test_an_unasked_rst(serve: Script) -> None:
    async def reset(connection: Connection) -> None:
        await quiet_for(0.3)
        connection.reset()

    outcome = await held(await serve(reset), 5)
    assert isinstance(outcome, Cut)
    assert (outcome.ended_by, outcome.by_itself) == ("reset", True)
    assert is_near(outcome.silence_seconds, 0.3)


async def test_an_rst_that_answers_the_ping(serve: Script) -> None:
    async def reset(connection: Connection) -> None:
        await connection.read(1)
        connection.reset()

    outcome = await held(await serve(reset), 0.2)
    assert isinstance(outcome, Cut)
    assert (outcome.ended_by, outcome.by_itself) == ("reset", False)
    assert is_near(outcome.silence_seconds, 0.2)


async def test_a_close_frame(serve: Script) -> None:
    """It is echoed, and what is ended behind it is no FIN without Close."""
    echoed = asyncio.get_running_loop().create_future()

    async def say_goodbye(connection: Connection) -> None:
        await quiet_for(0.3)
        await connection.send(frame(CLOSE, close(4000, "idle"))[:1])
        await connection.send(frame(CLOSE, close(4000, "idle"))[1:])
        echoed.set_result(await read_frame(connection))
        connection.writer.close()

    outcome = await held(await serve(say_goodbye), 5)
    assert isinstance(outcome, Cut)
    assert (outcome.ended_by, outcome.by_itself) == ("close_frame", True)
    assert (outcome.close_code, outcome.close_reason) == (4000, "idle")
    assert is_near(outcome.silence_seconds, 0.3)
    assert await within(echoed, "the echo") == (CLOSE, close(4000))


async def test_last_words_belong_to_the_end(serve: Script) -> None:
    async def leave(connection: Connection) -> None:
        await quiet_for(0.8)
        await connection.send(frame(TEXT, b"session over"))
        await quiet_for(0.05)
        connection.writer.close()

    outcome = await held(await serve(leave), 5)
    assert isinstance(outcome, Cut)
    assert is_near(outcome.silence_seconds, 0.8)
    assert outcome.longest_gap_seconds == 0


async def test_silences_before_the_last_one_are_known(serve: Script) -> None:
    async def leave(connection: Connection) -> None:
        for pause in (0.6, 0.9, 0.6):
            await quiet_for(pause)
            await connection.send(frame(TEXT, b"still here"))
        await quiet_for(0.7)
        connection.writer.close()

    outcome = await held(await serve(leave), 5)
    assert isinstance(outcome, Cut)
    assert is_near(outcome.silence_seconds, 0.7)
    assert is_near(outcome.longest_gap_seconds, 0.9)


async def test_a_greeting_begins_the_silence_anew(serve: Script) -> None:
    async def greet(connection: Connection) -> None:
        for _ in range(3):
            await quiet_for(0.2)
            await connection.send(frame(TEXT, b"welcome"))
        await answer_pings(connection)

    outcome = await held(await serve(greet), 0.5)
    assert isinstance(outcome, Survived)
    assert is_near(outcome.silence_seconds, 0.5)
    assert is_near(outcome.age_seconds, 1.1)


async def test_a_server_that_pings(serve: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Pings are answered, and the tunnel is given up as one that will never be silent."""
    monkeypatch.setattr(tunnel_module, "_GREETING_SECONDS", 0.5)
    monkeypatch.setattr(tunnel_module, "_APART_SECONDS", 0.1)
    answers = []

    async def ping(connection: Connection) -> None:
        with contextlib.suppress(AssertionError, ConnectionError):
            for number in range(20):
                await quiet_for(0.3)
                await connection.send(frame(PING, b"%d" % number))
                answers.append(await read_frame(connection))

    outcome = await held(await serve(ping), 5)
    assert isinstance(outcome, Talked)
    assert is_near(outcome.silence_seconds, 0.3)
    assert is_near(outcome.age_seconds, 1.2)
    assert answers[:3] == [(PONG, b"0"), (PONG, b"1"), (PONG, b"2")]


async def test_a_server_that_never_stops_sending(serve: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "_GREETING_SECONDS", 0.2)
    monkeypatch.setattr(tunnel_module, "_APART_SECONDS", 0.1)

    async def flood(connection: Connection) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await connection.send(frame(TEXT, bytes(1000)))
                await turn()

    outcome = await held(await serve(flood), 0.5)
    assert isinstance(outcome, Talked)
    busy = await held(await serve(flood), 0.5, answers_pings=False, busy=0.1)
    assert isinstance(busy, Survived)


async def test_anything_that_comes_behind_the_ping_is_a_sign_of_life(serve: Script) -> None:
    async def send_something_else(connection: Connection) -> None:
        await connection.read(1)
        await connection.send(frame(TEXT, b"not a Pong"))
        await connection.ends()

    assert isinstance(await held(await serve(send_something_else), 0.2, pong_timeout=0.3), Survived)


async def test_a_pong_that_was_not_asked_for_answers_nothing(serve: Script) -> None:
    async def send_pongs(connection: Connection) -> None:
        await connection.send(frame(PONG, b""))
        await connection.ends()

    assert isinstance(await held(await serve(send_pongs), 0.2, pong_timeout=0.2), Cut)


async def test_what_is_no_websocket(serve: Script) -> None:
    async def time_out(connection: Connection) -> None:
        await quiet_for(0.1)
        await connection.send(b"HTTP/1.1 408 Request Time-out\r\n\r\n")
        await connection.ends()

    outcome = await held(await serve(time_out), 5)
    assert isinstance(outcome, Failed)
    assert "HTTP/1.1 408" in outcome.reason


async def test_without_pings_a_tunnel_that_is_there_is_alive(serve: Script) -> None:
    received = asyncio.get_running_loop().create_future()

    async def listen(connection: Connection) -> None:
        received.set_result(await read_frame(connection))

    outcome = await held(await serve(listen), 0.2, answers_pings=False)
    assert isinstance(outcome, Survived)
    assert (await within(received, "the goodbye"))[0] == CLOSE


# --- tunnels that are kept busy -----------------------------------------------------------------------------------


async def test_busy_tunnels_are_never_silent(serve: Script) -> None:
    gaps = []

    async def listen(connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        with contextlib.suppress(AssertionError):
            while (answer := await read_frame(connection))[0] == PING:
                gaps.append(loop.time() - before)
                before = loop.time()
                await connection.send(frame(PONG, answer[1]))

    outcome = await held(await serve(listen), 1.0, busy=0.2)
    assert isinstance(outcome, Survived)
    assert outcome.age_seconds >= 1.0
    assert len(gaps) >= 4
    assert max(gaps) < 0.4


async def test_busy_tunnels_that_end(serve: Script) -> None:
    async def leave(connection: Connection) -> None:
        answering = asyncio.create_task(answer_pings(connection))
        await quiet_for(0.7)
        connection.writer.close()
        await answering

    outcome = await held(await serve(leave), 5, busy=0.2)
    assert isinstance(outcome, Cut)
    assert (outcome.ended_by, outcome.by_itself) == ("fin", True)
    assert is_near(outcome.age_seconds, 0.7)


async def test_busy_tunnels_that_die(serve: Script) -> None:
    async def swallow(connection: Connection) -> None:
        await connection.ends()

    outcome = await held(await serve(swallow), 5, pong_timeout=0.2, busy=0.2)
    assert isinstance(outcome, Cut)
    assert (outcome.ended_by, outcome.by_itself) == ("silence", False)


# --- tunnels that cannot be opened --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "strips Upgrade and Connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 400, "strips Upgrade and Connection"),
        (
            b"HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nlost",
            426,
            "426 Upgrade Required: lost (it seems to have arrived as an ordinary request",
        ),
        (b"HTTP/1.1 301 Moved\r\nLocation: wss://b.example/\r\n\r\n", 301, "it redirects to wss://b.example/"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", 401, "--header 'Authorization"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", 403, "--origin"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", 404, "there is no WebSocket at this path"),
        (b"HTTP/1.1 418 I'm a teapot\r\n\r\n", 418, "418 I'm a teapot"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", 502, "cannot reach the server behind it"),
        (switching(accept="AAAA"), 101, "Sec-WebSocket-Accept is wrong"),
        (b"", None, "the connection ended without a complete answer"),
        (b"HTTP/1.1 101 Swi", None, "the connection ended without a complete answer"),
        (b"220 mail.example ESMTP\r\n", None, "not an answer in HTTP/1"),
    ],
)
async def test_refusals(backends: Backends, answer: bytes, status: int | None, says: str) -> None:
    backend = await backends.scripted()
    backend.answers(answer)
    with pytest.raises(CannotOpen) as refused:
        await open_to(f"ws://{backend.address}/")
    assert says in str(refused.value)
    assert refused.value.status == status


async def test_a_reset_in_place_of_an_answer(backends: Backends) -> None:
    backend = await backends.scripted()

    async def reset(connection: Connection) -> None:
        await backend.request(connection)
        connection.reset()

    backend.plays(reset)
    with pytest.raises(CannotOpen, match="was reset without a complete answer"):
        await open_to(f"ws://{backend.address}/")


async def test_an_answer_that_never_comes(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "HANDSHAKE_SECONDS", 0.2)
    backend = await backends.scripted()
    with pytest.raises(CannotOpen, match=r"no complete answer arrived within 0\.2 s"):
        await open_to(f"ws://{backend.address}/")


async def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(CannotOpen, match=rf"cannot connect to 127\.0\.0\.1:{port}: connection refused"):
        await open_to(f"ws://127.0.0.1:{port}/")


async def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(CannotOpen, match=r"nowhere\.invalid cannot be resolved"):
        await open_to("ws://nowhere.invalid/")


async def test_a_certificate_that_is_not_trusted(backends: Backends) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=server_context("tls"))
    port = server.sockets[0].getsockname()[1]
    target = parse_target(f"wss://127.0.0.1:{port}/")
    with pytest.raises(CannotOpen, match=r"its certificate is not trusted: self.signed certificate \(--insecure"):
        await open_tunnel(target, None, ssl.create_default_context())
    server.close()
    await server.wait_closed()


async def test_no_tls_where_it_was_expected(backends: Backends) -> None:
    backend = await backends.scripted()
    backend.answers(b"")

    async def refuse(connection: Connection) -> None:
        await connection.read(1)
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    backend.plays(refuse)
    with pytest.raises(CannotOpen, match=r"no TLS: .* \(for a server without TLS, use ws://\)"):
        await open_to(f"wss://{backend.address}/")
