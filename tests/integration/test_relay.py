"""Every byte of a tunnel arrives, in order and unchanged, and so does its end."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import time

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect as websocket

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Echo, Scripted
from tests.support.deadline import DEADLINE_SECONDS, SOAK, quiet_for, turn, within
from tests.support.frames import BINARY, CLOSE, PING, PONG, TEXT, close, frame, from_client, random_stream, read_frame
from tests.support.gateway import NO_PINGS, Gateway, route
from tests.support.pace import Pace
from tests.support.raw import Connection, handshake, switching

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
LARGE_MIB = 64 if SOAK else 16
"""More than any buffer on the way holds."""

EVERY_LENGTH = [0, 1, 2, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 131072, 131073, MIB]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo(shared_backends: Backends) -> Echo:
    return await shared_backends.echo(compression="deflate")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, echo: Echo, scripted: Scripted) -> Gateway:
    return await start_shared_gateway(
        {
            **NO_PINGS,  # raw ends compare what they get byte for byte, and a flood may take longer than a silence
            "timeouts": {"close": "2s"},
            "upstreams": {
                "echo": {"backends": [echo.address]},
                "scripted": {"backends": [scripted.address], "on_loss": "off"},
            },
            "routes": [route("raw", "scripted"), route("echo", "echo")],
        }
    )


async def tunnel(
    gateway: Gateway, open_connection: Open, scripted: Scripted, path: str
) -> tuple[Connection, Connection]:
    """Both ends of a tunnel. The test closes the client's; the backend's lives as long."""
    arrived: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(switching())
        arrived.set_result(backend)
        await within(backend.writer.wait_closed(), "the test to close", 10 * DEADLINE_SECONDS)

    scripted.script = script
    client = await open_connection(gateway)
    await client.send(handshake(path))
    assert (await client.head()).status == 101
    return client, await arrived


async def pump(connection: Connection, stream: bytes, rng: random.Random, largest: int) -> None:
    """Send a stream cut at random places."""
    view = memoryview(stream)
    while view:
        size = rng.randint(1, largest)
        connection.writer.write(view[:size])
        view = view[size:]
        await within(connection.writer.drain(), "a tunnel to take bytes", 3 * DEADLINE_SECONDS)


async def digest(connection: Connection, size: int) -> str:
    """SHA-256 of the next bytes."""
    found = hashlib.sha256()
    while size:
        data = await within(connection.reader.read(min(size, MIB)), "bytes of a tunnel", 3 * DEADLINE_SECONDS)
        assert data, f"the tunnel ended {size} bytes early"
        found.update(data)
        size -= len(data)
    return found.hexdigest()


@pytest.mark.parametrize(
    ("seed", "sizes", "largest"),
    [
        (1, EVERY_LENGTH, 70_000),
        (2, [*range(0, 300), *EVERY_LENGTH], 37),
        (3, [3 * MIB, 0, 5 * MIB, 1], 4 * MIB),
        pytest.param(4, [LARGE_MIB * MIB], 500_000, marks=pytest.mark.soak),
    ],
    ids=["every length", "small pieces", "large pieces", f"{LARGE_MIB} MiB"],
)
async def test_streams_arrive_byte_for_byte_in_both_directions_at_once(
    gateway: Gateway, open_connection: Open, scripted: Scripted, seed: int, sizes: list[int], largest: int
) -> None:
    if largest < 100:
        sizes = [size for size in sizes if size < 2000]
    rng = random.Random(seed)
    client, backend = await tunnel(gateway, open_connection, scripted, f"/raw/random/{seed}")
    up = random_stream(seed, True, sizes)
    down = random_stream(-seed, False, sizes[::-1])
    _, _, up_digest, down_digest = await asyncio.gather(
        pump(client, up, rng, largest),
        pump(backend, down, rng, largest),
        digest(backend, len(up)),
        digest(client, len(down)),
    )
    assert up_digest == hashlib.sha256(up).hexdigest()
    assert down_digest == hashlib.sha256(down).hexdigest()
    await client.close()
    await backend.close()
    record = await gateway.logged(event="tunnel_end", path=f"/raw/random/{seed}")
    assert (record["client_bytes"], record["backend_bytes"]) == (len(up), len(down))


async def test_single_bytes(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    client, backend = await tunnel(gateway, open_connection, scripted, "/raw/single")
    stream = random_stream(7, True, [0, 1, 5, 126, 200, 0])
    for connection in (client, backend):
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def trickle(connection: Connection) -> None:
        for byte in stream:
            connection.writer.write(bytes([byte]))
            await turn()

    _, _, up, down = await asyncio.gather(
        trickle(client), trickle(backend), backend.read(len(stream)), client.read(len(stream))
    )
    assert up == stream
    assert down == stream


async def test_a_reader_that_stalls_for_seconds_loses_nothing(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    client, backend = await tunnel(gateway, open_connection, scripted, "/raw/stall")
    streams = random_stream(8, True, [9 * MIB, 4, 9 * MIB]), random_stream(9, False, [9 * MIB, 4, 9 * MIB])
    for connection in (client, backend):
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every transport over TCP has it
    sending = asyncio.gather(
        pump(client, streams[0], random.Random(1), MIB), pump(backend, streams[1], random.Random(2), MIB)
    )
    await quiet_for(2)  # the stall itself
    assert not sending.done(), "18 MiB went into a connection that nobody reads"
    for connection in (client, backend):
        connection.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
    up, down, _ = await asyncio.gather(digest(backend, len(streams[0])), digest(client, len(streams[1])), sending)
    assert up == hashlib.sha256(streams[0]).hexdigest()
    assert down == hashlib.sha256(streams[1]).hexdigest()


async def test_a_websocket_library_at_both_ends(gateway: Gateway) -> None:
    rng = random.Random(10)
    messages: list[str | bytes] = ["", b"", "héllo ✓" * 1000, rng.randbytes(126), rng.randbytes(70_000), "x" * 65536]
    async with websocket(gateway.ws("/echo/library"), max_size=None, ping_interval=None) as client:
        for message in messages:
            await client.send(message)
        for message in messages:
            assert await within(client.recv(), "an echo") == message

        await client.send(iter(["frag", "ment", "ed"]))
        assert await within(client.recv(), "an echo") == "fragmented"
        await within(await client.ping(b"are you there"), "a pong")
    assert client.close_code == 1000
    record = await gateway.logged(event="tunnel_end", path="/echo/library")
    assert (record["initiator"], record["cause"]) == ("client", "close_frame")
    assert (record["client_close_code"], record["backend_close_code"]) == (1000, 1000)


@pytest.mark.soak
async def test_a_large_message_through_a_websocket_library(gateway: Gateway) -> None:
    message = random.Random(11).randbytes(LARGE_MIB * MIB)
    async with websocket(
        gateway.ws("/echo/large"), max_size=None, ping_interval=None, compression=None, close_timeout=DEADLINE_SECONDS
    ) as client:
        sending = asyncio.create_task(client.send(message))
        echoed = await within(client.recv(), f"{LARGE_MIB} MiB to come back", 3 * DEADLINE_SECONDS)
        await sending
    assert hashlib.sha256(echoed).digest() == hashlib.sha256(message).digest()  # type: ignore[arg-type]  # it is bytes


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_fin_is_passed_on_and_the_other_direction_lives(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    client, backend = await tunnel(gateway, open_connection, scripted, "/raw/fin")
    await client.send(from_client(TEXT, b"last words"))
    client.half_close()
    assert await read_frame(backend) == (TEXT, b"last words")
    assert await backend.rest() == b""
    await backend.send(frame(TEXT, b"still here"))
    assert await read_frame(client) == (TEXT, b"still here")
    await backend.close()
    assert await client.rest() == b""
    record = await gateway.logged(event="tunnel_end", path="/raw/fin")
    assert (record["initiator"], record["cause"]) == ("client", "fin")


async def test_fin_behind_bytes_that_are_stuck_comes_last(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    client, backend = await tunnel(gateway, open_connection, scripted, "/raw/stuck-fin")
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every transport over TCP has it
    stream = random_stream(12, False, [12 * MIB])
    sending = asyncio.create_task(pump(backend, stream, random.Random(3), MIB))
    await quiet_for(0.3)  # until buffers are full
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
    sending.add_done_callback(lambda _: backend.half_close())
    whole = hashlib.sha256()
    size = 0
    while data := await within(client.reader.read(MIB), "bytes or the end"):
        whole.update(data)
        size += len(data)
    assert size == len(stream)
    assert whole.digest() == hashlib.sha256(stream).digest()


@pytest.mark.parametrize("side", ["client", "backend"])
async def test_a_reset_ends_the_other_side_at_once(
    gateway: Gateway, open_connection: Open, scripted: Scripted, side: str
) -> None:
    client, backend = await tunnel(gateway, open_connection, scripted, f"/raw/reset/{side}")
    await client.send(from_client(TEXT, b"x"))
    assert await read_frame(backend) == (TEXT, b"x")
    other = backend if side == "client" else client
    async with Pace() as pace:
        start = time.monotonic()
        (client if side == "client" else backend).reset()
        assert await other.ends() == b""
        took = time.monotonic() - start
    assert took < pace.slowdown  # well before `close`
    await other.close()
    record = await gateway.logged(event="tunnel_end", path=f"/raw/reset/{side}")
    assert (record["initiator"], record["cause"]) == (side, "reset")


@pytest.mark.parametrize("side", ["client", "backend"])
@pytest.mark.parametrize("code", [1000, 1001, 1011, 3333, 4999, None])
async def test_a_close_frame_is_relayed_and_told(
    gateway: Gateway, open_connection: Open, scripted: Scripted, side: str, code: int | None
) -> None:
    path = f"/raw/close/{side}/{code}"
    client, backend = await tunnel(gateway, open_connection, scripted, path)
    payload = close(code, "bye") if code else b""
    if side == "client":
        await client.send(from_client(CLOSE, payload))
        assert await read_frame(backend) == (CLOSE, payload)
        await backend.send(frame(CLOSE, payload))
        assert await read_frame(client) == (CLOSE, payload)
    else:
        await backend.send(frame(CLOSE, payload))
        assert await read_frame(client) == (CLOSE, payload)
        await client.send(from_client(CLOSE, payload))
        assert await read_frame(backend) == (CLOSE, payload)
    await backend.close()
    assert await client.rest() == b""
    await client.close()
    record = await gateway.logged(event="tunnel_end", path=path)
    assert (record["initiator"], record["cause"]) == (side, "close_frame")
    for name in ("client_close_code", "backend_close_code"):
        assert record.get(name) == (code if code else record.get(name))


async def test_control_frames_cross_a_tunnel_untouched(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    """The gateway answers no ping of an endpoint: the endpoint that was asked does."""
    client, backend = await tunnel(gateway, open_connection, scripted, "/raw/control")
    sent = frame(PING, b"p" * 125, b"mask") + frame(PONG, b"", b"MASK") + frame(BINARY, b"b", b"0000")
    await client.send(sent)
    assert await backend.read(len(sent)) == sent
    assert await client.is_quiet(0.1)
