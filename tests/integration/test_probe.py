"""``gateway probe``, as users type it, through paths that cut in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.frames import apply_mask

from gateway.protocol.websocket import accept_of
from tests.conftest import Backends, StartGateway
from tests.support.backends import Scripted
from tests.support.deadline import SCALE, eventually, within
from tests.support.frames import CLOSE, PING, PONG, TEXT, close, frame, read_frame
from tests.support.gateway import COMMAND, command, route
from tests.support.ports import free_port
from tests.support.process import Process, run
from tests.support.raw import Connection, switching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300 * SCALE)]

CUTOFF_SECONDS = 2.0
LATE_SECONDS = 1.0 * SCALE
"""A busy machine may have the far end of a path see a message, or its own timer, so much later."""
CERTIFICATE = Path(__file__).parent.parent / "probe" / "localhost.pem"
End = Callable[[Connection], Awaitable[object]]


async def probe(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, Any, str]:
    """Run it; exit status, what it prints as JSON (None if nothing), stderr."""
    words = ("probe", *arguments, "--json")
    if env is None:
        status, stdout, stderr = await command(*words, seconds=100 * SCALE)
    else:  # it is about what is read when programs start
        status, stdout, stderr = await run([*COMMAND, *words], env=env, seconds=100 * SCALE)
    return status, json.loads(stdout) if stdout else None, stderr


async def accept(connection: Connection) -> None:
    key = (await connection.head()).value("sec-websocket-key")
    assert key is not None
    await connection.send(switching(accept=accept_of(key.encode()).decode()))


def cuts(end: End, by_age: bool = False, answers: bool = True) -> End:
    """A path's far end that ends a tunnel after its silence, or at its age. :param answers: it answers Pings"""

    async def script(connection: Connection) -> None:
        await accept(connection)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CUTOFF_SECONDS
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    opcode, payload = await read_frame(connection)
                if opcode == PING and answers:
                    await connection.send(frame(PONG, payload))
                elif opcode == CLOSE:
                    await connection.send(frame(CLOSE, payload))
                    return
                if not by_age:
                    deadline = loop.time() + CUTOFF_SECONDS
        except TimeoutError:
            await end(connection)
        except (AssertionError, ConnectionError):
            pass

    return script


async def fin(connection: Connection) -> None:
    connection.writer.close()


async def rst(connection: Connection) -> None:
    connection.reset()


async def rst_later(connection: Connection) -> None:
    with contextlib.suppress(AssertionError, ConnectionError):
        await connection.read(1)
        connection.reset()


async def forget(connection: Connection) -> None:
    await connection.ends(seconds=60 * SCALE)


async def say_goodbye(connection: Connection) -> None:
    await connection.send(frame(CLOSE, close(4000, "too quiet")))
    await connection.ends()


async def answer(connection: Connection) -> None:
    """Answer Pings and the Close, however long those take to come."""
    with contextlib.suppress(AssertionError, ConnectionError, asyncio.IncompleteReadError):
        while True:
            first, second = await connection.reader.readexactly(2)
            mask = await connection.read(4)
            payload = apply_mask(await connection.read(second & 0x7F), mask)
            await connection.send(frame(PONG if first & 0x0F == PING else CLOSE, payload))
            if first & 0x0F == CLOSE:
                return


async def chat(connection: Connection) -> None:
    """Send something every now and then."""
    await accept(connection)
    answering = asyncio.create_task(answer(connection))
    with contextlib.suppress(ConnectionError):
        while not answering.done():
            await connection.send(frame(TEXT, b"tick"))
            await asyncio.wait([answering], timeout=TICK_SECONDS)
    await answering


def refuses(first: int, every: int, with_: bytes) -> End:
    """Lets in so many tunnels, and of those that follow all but each so-manieth."""
    taken = 0

    async def script(connection: Connection) -> None:
        nonlocal taken
        taken += 1
        if taken > first and taken % every == 0:
            await connection.head()
            await connection.send(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % with_)
        else:
            await accept(connection)
            await answer(connection)

    return script


# --- paths that cut -----------------------------------------------------------------------------------------------

TICK_SECONDS = 1.5
LADDER = ("--max", "3500ms", "--pong-timeout", "1s")
# What the far end of each path does, and the options of the probe.
PATHS: dict[str, tuple[End, tuple[str, ...]]] = {
    "fin": (cuts(fin), LADDER),
    "reset": (cuts(rst), LADDER),
    "reset later": (cuts(rst_later), LADDER),
    "silence": (cuts(forget), LADDER),
    "close frame": (cuts(say_goodbye), LADDER),
    "age": (cuts(fin, by_age=True), LADDER),
    "no pongs": (cuts(fin, answers=False), LADDER),
    "chatty": (chat, ("--max", "5s")),
    "only one": (refuses(1, 1, b"429 Too Many Requests"), ("--max", "1s")),
    "every second": (refuses(1, 2, b"503 Service Unavailable"), ("--max", "1s")),
}

Probes = dict[str, asyncio.Task[tuple[int, Any, str]]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probes(shared_backends: Backends) -> AsyncIterator[Probes]:
    """Probes of all the paths. They wait more than they compute, so all of them run at once."""

    async def start(name: str) -> tuple[int, Any, str]:
        script, options = PATHS[name]
        backend = await shared_backends.scripted()
        backend.plays(script)
        return await probe(f"ws://{backend.address}/chat", *options)

    tasks = {name: asyncio.create_task(start(name)) for name in PATHS}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.either_build
@pytest.mark.parametrize(
    ("name", "ended_by", "by_itself"),
    [
        ("fin", "fin", True),
        ("reset", "reset", True),
        ("reset later", "reset", False),
        ("silence", "silence", False),
        ("close frame", "close_frame", True),
    ],
)
async def test_every_way_to_cut(probes: Probes, name: str, ended_by: str, by_itself: bool) -> None:
    status, found, stderr = await probes[name]
    assert status == 0, stderr
    assert stderr == f"probing {found['url']}: 3.5 s if nothing is cut, at most 33 s"
    cutoff = found["cutoff_seconds"]
    assert cutoff["low"] <= CUTOFF_SECONDS + LATE_SECONDS, found
    assert cutoff["high"] >= CUTOFF_SECONDS, found
    assert cutoff["high"] - cutoff["low"] <= 1 + LATE_SECONDS, found
    assert (found["ended_by"], found["ends_by_itself"]) == (ended_by, by_itself)
    assert found["close_code"] == (4000 if ended_by == "close_frame" else None)
    assert found["close_reason"] == ("too quiet" if ended_by == "close_frame" else None)
    assert found["ping_after_seconds"] == pytest.approx(0.8 * cutoff["low"], abs=0.1)
    assert found["lifetime_seconds"] is None
    assert found["confirmed"]
    assert found["tunnels_failed"] == 0


@pytest.mark.either_build
async def test_tunnels_that_end_at_an_age(probes: Probes) -> None:
    status, found, stderr = await probes["age"]
    assert status == 0, stderr
    lifetime = found["lifetime_seconds"]
    assert lifetime["low"] <= CUTOFF_SECONDS + LATE_SECONDS
    assert lifetime["high"] >= CUTOFF_SECONDS
    assert (found["ended_by"], found["ping_after_seconds"]) == ("fin", None)


@pytest.mark.either_build
async def test_a_server_that_answers_no_pings(probes: Probes) -> None:
    status, found, stderr = await probes["no pongs"]
    assert status == 0, stderr
    assert found["answers_pings"] is False
    assert found["cutoff_seconds"]["low"] <= CUTOFF_SECONDS + LATE_SECONDS
    assert found["cutoff_seconds"]["high"] >= CUTOFF_SECONDS
    assert (found["ended_by"], found["ping_after_seconds"]) == ("fin", None)


@pytest.mark.either_build
async def test_a_chatty_server(probes: Probes) -> None:
    """No silence longer than its own can be measured, which is said."""
    status, found, stderr = await probes["chatty"]
    assert status == 0, stderr
    assert found["cutoff_seconds"] is None
    every = found["server_sends_every_seconds"]
    assert TICK_SECONDS - 0.1 < every < TICK_SECONDS + LATE_SECONDS
    assert found["ping_after_seconds"] >= 0.8 * TICK_SECONDS - 0.1
    assert any("the server itself sends something at least every" in note for note in found["notes"])


@pytest.mark.either_build
async def test_a_limit_on_connections_is_no_cutoff(probes: Probes) -> None:
    """Tunnels that are refused are tried again; where all are refused for good, that is what is reported."""
    status, found, stderr = await probes["only one"]
    assert (status, found) == (1, None)
    assert "only the first tunnel could be used: the handshake was refused: 429 Too Many Requests" in stderr
    status, found, stderr = await probes["every second"]
    assert status == 0, stderr
    assert (found["cutoff_seconds"], found["tunnels_failed"]) == (None, 0)


# --- handshakes ---------------------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_tls_headers_and_subprotocols(backends: Backends) -> None:
    """The system's trust, and what the user has the handshake say, on every tunnel."""
    heads = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        head = await connection.head()
        heads.append(head)
        key = head.value("sec-websocket-key")
        assert key is not None
        await connection.send(switching("Sec-WebSocket-Protocol: b", accept=accept_of(key.encode()).decode()))
        await answer(connection)
        await connection.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    port = free_port()
    server = await asyncio.start_server(accepted, "127.0.0.1", port, ssl=context)
    url = f"wss://user:secret@localhost:{port}/chat?room=1"
    options = ["--max", "1s", "--header", "X-A: 1", "-H", "X-B: 2", "--subprotocol", "a", "--subprotocol", "b"]
    options += ["--origin", "https://app.example"]
    trusted, untrusted, insecure = await asyncio.gather(
        probe(url, *options, env={"SSL_CERT_FILE": str(CERTIFICATE)}),
        probe(url),
        probe(url, "--max", "1s", "--insecure"),
    )
    server.close()
    await server.wait_closed()
    status, found, stderr = trusted
    assert status == 0, stderr
    assert (found["url"], found["subprotocol"]) == (f"wss://localhost:{port}/chat?room=1", "b")
    assert found["cutoff_seconds"] is None
    assert "secret" not in stderr
    asked = [head for head in heads if head.value("x-a")]
    assert len(asked) == 4
    for head in asked:
        assert head.target == "/chat?room=1"
        assert (head.value("x-a"), head.value("x-b"), head.value("origin")) == ("1", "2", "https://app.example")
        assert head.value("sec-websocket-protocol") == "a, b"
        assert head.value("authorization") == "Basic dXNlcjpzZWNyZXQ="
    assert untrusted[0] == 1
    assert "certificate is not trusted" in untrusted[2]
    assert insecure[0] == 0


async def test_through_a_gateway(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(
        {"upstreams": {"echo": {"backends": [echo.address]}}, "routes": [route("chat", "echo")]}
    )
    (status, found, _), (refused, nothing, stderr) = await asyncio.gather(
        probe(gateway.ws("/chat"), "--max", "1s"), probe(gateway.ws("/elsewhere"))
    )
    assert status == 0
    assert (found["cutoff_seconds"], found["ended_by"]) == (None, None)
    assert 0.8 <= found["ping_after_seconds"] < 0.8 * (1 + LATE_SECONDS)
    assert (refused, nothing) == (1, None)
    assert "Error: the handshake was refused: 404 Not Found: " in stderr
    record = await gateway.logged(event="tunnel_end", path="/chat")
    assert (record["initiator"], record["cause"], record["client_close_code"]) == ("client", "close_frame", 1000)


@pytest.mark.either_build
async def test_a_server_that_closes_at_once(backends: Backends) -> None:
    backend = await backends.scripted()

    async def refuse(connection: Connection) -> None:
        await accept(connection)
        await connection.send(frame(CLOSE, close(1008, "log in first")))
        await connection.ends()

    backend.plays(refuse)
    status, found, stderr = await probe(f"ws://{backend.address}/")
    assert (status, found) == (1, None)
    assert "the tunnel is ended as soon as it is open, by a Close frame with code 1008 (log in first)" in stderr


# --- interrupted --------------------------------------------------------------------------------------------------


async def interrupted(backends: Backends, *options: str) -> tuple[int, str, str]:
    """Probe until a silence was survived, then press Ctrl-C."""
    backend = await backends.scripted()
    closed = 0

    async def count(connection: Connection) -> None:
        nonlocal closed
        await accept(connection)
        await answer(connection)
        closed += 1

    backend.plays(count)
    process = await Process.start(*COMMAND, "probe", f"ws://{backend.address}/", "--max", "50s", *options)
    try:
        await eventually(lambda: closed >= 2, "a tunnel that survives")  # beside the first, which is not held
        process.signal(signal.SIGINT)
        status = await process.exited()
        await process.stdout.end()
        await process.stderr.end()
    finally:
        await process.end()
    return status, "\n".join(process.stdout.lines), "\n".join(process.stderr.lines)


@pytest.mark.either_build
async def test_ctrl_c_ends_it_with_what_is_known(backends: Backends) -> None:
    (status, stdout, stderr), (_, text, _) = await asyncio.gather(
        interrupted(backends, "--json"), interrupted(backends)
    )
    assert status == 1
    assert len(stderr.splitlines()) == 1, stderr
    found = json.loads(stdout)
    assert (found["interrupted"], found["confirmed"], found["cutoff_seconds"]) == (True, False, None)
    assert 2.4 < found["tolerated_seconds"] < 7
    assert re.match(r"nothing is cut by a silence of up to [2-6](\.\d)? s; ping every \d\S* s", text)
    assert "- interrupted: this is what was known by then" in text


# --- on a terminal ------------------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_progress_is_for_a_terminals_stderr(backends: Backends) -> None:
    backend: Scripted = await backends.scripted()
    backend.plays(cuts(fin))
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "probe",
        f"ws://{backend.address}/",
        "--max",
        "1s",
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    loop = asyncio.get_running_loop()
    shown = b""

    def read() -> None:
        nonlocal shown
        try:
            shown += os.read(ours, 65536)
        except OSError:  # everyone else has closed it
            loop.remove_reader(ours)

    loop.add_reader(ours, read)
    stdout, _ = await within(process.communicate(), "the probe to end")
    loop.remove_reader(ours)
    os.close(ours)
    assert process.returncode == 0
    assert b"round 1, looking for a limit: 3 tunnels, up to 6 s" in shown
    said = r"nothing is cut by a silence of up to 1(\.\d)? s; ping every 0\.\d–\S+ s\n"  # noqa: RUF001
    assert re.match(said, stdout.decode())
    assert b"\x1b" not in stdout
