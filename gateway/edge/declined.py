"""The answer of a backend that declined an upgrade: relayed whole, and the connection closed behind it.

This is off the lean path: a task for each, on asyncio's own socket calls.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from gateway.edge.forwarding import last_answer_to_client
from gateway.protocol.http import ResponseReader

if TYPE_CHECKING:
    from gateway.edge.edge import Edge

RECEIVE_BYTES = 64 * 1024
LINGER_SECONDS = 2.0


async def relay_answer(
    edge: Edge, client: socket.socket, backend: socket.socket, reader: ResponseReader, write_stall: float
) -> None:
    """Relay the answer of a backend that declined, up to its end or until the client has gone; then close both.

    :param reader: has read the answer's head
    :param write_stall: seconds in which the client has to take something
    """
    with client, backend:
        copying = edge.loop.create_task(_copy_answer(edge.loop, client, backend, reader, write_stall))
        # What the client sends now is for nobody, and its end is the end of all.
        gone = edge.loop.create_task(_read_to_end(edge.loop, client))
        try:
            await asyncio.wait((copying, gone), return_when=asyncio.FIRST_COMPLETED)
            if copying.done() and copying.exception() is None:
                await asyncio.wait((gone,), timeout=LINGER_SECONDS)
        finally:
            copying.cancel()
            gone.cancel()
            # One of the connections is gone, or its peer is late or makes no sense: the other is closed above.
            await asyncio.gather(copying, gone, return_exceptions=True)


async def _copy_answer(
    loop: asyncio.AbstractEventLoop,
    client: socket.socket,
    backend: socket.socket,
    reader: ResponseReader,
    write_stall: float,
) -> None:
    """:raises (OSError, BadResponse, TimeoutError): that cannot be done to the end"""
    data = reader.received
    reader.received = b""
    async with asyncio.timeout(write_stall):
        await loop.sock_sendall(client, last_answer_to_client(reader.head))
    while True:
        if data:
            reader.feed_body(data)
            async with asyncio.timeout(write_stall):
                await loop.sock_sendall(client, data)
        if reader.complete:
            break
        data = await loop.sock_recv(backend, RECEIVE_BYTES)
        if not data:
            break
    client.shutdown(socket.SHUT_WR)


async def _read_to_end(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """:raises OSError: the connection was reset"""
    while await loop.sock_recv(sock, RECEIVE_BYTES):
        pass
