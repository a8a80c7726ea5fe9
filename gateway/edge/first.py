"""The first request head of a connection: read here, since an upgrade is not to pass through aiohttp."""

from __future__ import annotations

import time
from errno import EAGAIN
from typing import TYPE_CHECKING

from gateway.edge.request import Peer, Refused, examine
from gateway.edge.upgrade import NOT_NOW, Upgrade
from gateway.protocol.http import BadHead, RequestReader

if TYPE_CHECKING:
    from gateway.edge.edge import Edge


class FirstRequest:
    """A connection that was accepted and has not sent a whole head."""

    __slots__ = ("_edge", "_fd", "_peer", "_reader", "_started_ns", "deadline_ns")

    def __init__(self, edge: Edge, fd: int, peer: Peer, received: bytes | int) -> None:
        """
        :param fd: a connection, non-blocking; the first request owns it
        :param received: what has come on it already, or an errno
        """
        self._edge = edge
        self._fd = fd
        self._peer = peer
        self._reader: RequestReader | None = None
        self._started_ns = 0
        self.deadline_ns = edge.head_deadline()
        edge.waiting.add(self)
        edge.poller.read(fd, self._read)
        if received != EAGAIN:
            self._read(received)

    def late(self) -> None:
        """The head did not come in time. A connection that sent nothing at all is closed without a word."""
        if self._reader is None:
            self._close()
        else:
            self._refuse(Refused(408, "the request's head did not come in time", "timeout"))

    def _read(self, data: bytes | int) -> None:
        if isinstance(data, int):
            if data not in NOT_NOW:
                self._close()
            return
        if not data:
            self._close()
            return
        if self._reader is None:
            self._reader = RequestReader()
            self._started_ns = time.monotonic_ns()
        edge = self._edge
        try:
            head = self._reader.feed(data)
            if head is None:
                return
            request = None
            if b"upgrade" in head.first:
                request = examine(head, self._peer, edge.trust, edge.routes, self._started_ns)
        except BadHead as error:
            self._refuse(Refused(error.status, str(error), "bad_request"))
            return
        except Refused as refused:
            self._refuse(refused)
            return
        edge.waiting.discard(self)
        if request is not None and request.upgrade is not None:
            if edge.draining:
                self._refuse(Refused(503, "this gateway is shutting down", "unavailable", request.route))
                return
            Upgrade(edge, self._fd, request, self._reader.received[head.size :], watched=True)
            return
        edge.poller.unwatch(self._fd)
        edge.plain.adopt(self._fd, self._peer, self._reader.received)

    def _refuse(self, refused: Refused) -> None:
        edge = self._edge
        edge.waiting.discard(self)
        edge.poller.unwatch(self._fd)
        edge.count_handshake(refused.route, refused.result, self._started_ns)
        edge.log_refusal(str(self._peer), refused)
        edge.answer(self._fd, refused)

    def _close(self) -> None:
        self._edge.waiting.discard(self)
        self._edge.poller.unwatch(self._fd)
        self._edge.drop(self._fd)
