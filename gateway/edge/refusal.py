"""Answers of the gateway's own, and how a connection is closed so that its client gets to read them."""

from __future__ import annotations

from errno import EAGAIN, EINTR
from http import HTTPStatus
from typing import TYPE_CHECKING

from gateway.protocol.http import Field, response_bytes

if TYPE_CHECKING:
    from gateway.edge.edge import Edge

LINGER_NS = 2_000_000_000
RETRY_AFTER_SECONDS = 5
"""When to ask again, for those who get 503 (RFC 9110 section 10.2.3): another gateway may be asked sooner."""


def refusal_fields(status: int) -> list[Field]:
    """Fields that an answer with this status has beside those of its body."""
    if status == HTTPStatus.UPGRADE_REQUIRED:
        return [(b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket")]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return [(b"Retry-After", str(RETRY_AFTER_SECONDS).encode())]
    return []


def refusal_bytes(status: int, reason: str) -> bytes:
    """A short answer in plain text, behind which the connection is closed."""
    body = f"{status} {HTTPStatus(status).phrase}: {reason}\n".encode("utf-8", "replace")
    connection = b"close, Upgrade" if status == HTTPStatus.UPGRADE_REQUIRED else b"close"
    fields = [
        *refusal_fields(status),
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", str(len(body)).encode()),
        (b"Connection", connection),
    ]
    return response_bytes(status, HTTPStatus(status).phrase.encode(), fields) + body


class Linger:
    """Reads on after the last answer was sent, until the client has closed too.

    A socket that is closed with bytes unread resets the connection, and the reset may overtake the answer.
    """

    __slots__ = ("_edge", "_fd", "deadline_ns")

    def __init__(self, edge: Edge, fd: int, answer: bytes) -> None:
        """:param fd: a connection that the poller does not watch any more; closed in the end"""
        self._edge = edge
        self._fd = fd
        self.deadline_ns = edge.relay.now + LINGER_NS
        # A few hundred bytes on a connection that has carried nothing: they fit, or the client is gone.
        if edge.kernel.write(fd, answer) < 0:
            edge.drop(fd)
            return
        edge.kernel.shut(fd)
        edge.poller.read(fd, self._read)
        edge.waiting.add(self)

    def late(self) -> None:
        """The client had its time."""
        self._edge.waiting.discard(self)
        self._edge.poller.unwatch(self._fd)
        self._edge.drop(self._fd)

    def _read(self, data: bytes | int) -> None:
        if not data or (isinstance(data, int) and data not in (EAGAIN, EINTR)):
            self.late()
