"""A proxy between the load program's clients and its backend, and how a measurement goes."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

from bench.load import running_load

Damage = Callable[[bytes], bytes]


@contextlib.asynccontextmanager
async def relay(
    backend: int,
    *,
    request: Damage = bytes,
    answer: Damage = bytes,
    piece_bytes: int = 65536,
    opened: list[str] | None = None,
    tls: ssl.SSLContext | None = None,
    resumed: list[bool] | None = None,
) -> AsyncIterator[int]:
    """A proxy that changes what it receives and sends it in pieces; gives its port.

    `opened` gets the address of each client's connection; `resumed`, with `tls`, whether its session was.
    """

    serving: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Damage) -> None:
        with contextlib.suppress(ConnectionError):
            while received := await reader.read(65536):
                changed = change(received)
                for start in range(0, len(changed), piece_bytes):
                    writer.write(changed[start : start + piece_bytes])
                    await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(cast("asyncio.Task[None]", asyncio.current_task()))
        if opened is not None:
            opened.append(str(writer.get_extra_info("peername")))
        if resumed is not None:
            resumed.append(writer.get_extra_info("ssl_object").session_reused)
        beyond_reader, beyond_writer = await asyncio.open_connection("127.0.0.1", backend)
        await asyncio.gather(pump(reader, beyond_writer, request), pump(beyond_reader, writer, answer))
        for side in (writer, beyond_writer):
            with contextlib.suppress(ConnectionError):
                await side.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*serving)  # the client has ended, and so have they


def measure(program: Path, *arguments: str | float) -> dict[str, Any]:
    with running_load(program, *arguments, cores=None) as load:
        load.expect("warm", 20)
        load.go()
        return load.result(20)
