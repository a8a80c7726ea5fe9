"""The first request head of a connection: read here, since an upgrade is not to pass through aiohttp."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.edge.request import Peer, Refused, examine
from gateway.edge.upgrade import NOT_NOW, Upgrade
from gateway.protocol.http import BadHead, RequestReader
from gateway.tunnels.table.layout import NEVER

if TYPE_CHECKING:
    from gateway.edge.edge import Edge


class FirstRequest:
    """A connection that was accepted and has not sent a whole head."""

    __slots__ = ("_edge", "_fd", "_peer", "_reader", "_started_ns", "_waits", "deadline_ns")

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
        self._waits = False  # for the poller to tell of more; most heads come whole with their connection
        self.deadline_ns = NEVER
        self._read(received)

    def late(self) -> None:
        """The head did not come in time. A connection that sent nothing at all is closed without a word."""
        if self._reader is None:
            self._close()
        else:
            self._refuse(Refused(408, "the request's head did not come in time", "timeout"))

    def _read(self, data: bytes | int) -> None:
        if isinstance(data, int):
            if data in NOT_NOW:
                self._wait()
            else:
                self._close()
            return
        if not data:
            self._close()
            return
        edge = self._edge
        head = None
        received = data
        if self._reader is None:
            self._started_ns = time.monotonic_ns()
            head = edge.known_heads.find(data)
        was_known = head is not None
        try:
            if head is None:
                if self._reader is None:
                    self._reader = RequestReader()
                head = self._reader.feed(data)
                if head is None:
                    self._wait()
                    return
                received = self._reader.received
            request = None
            if b"upgrade" in head.first:
                request = examine(head, self._peer, edge.trust, edge.routes, self._started_ns)
        except BadHead as error:
            self._refuse(Refused(error.status, str(error), "bad_request"))
            return
        except Refused as refused:
            self._refuse(refused)
            return
        if request is not None and request.upgrade is not None:
            if edge.draining:
                self._refuse(Refused(503, "this gateway is shutting down", "unavailable", request.route))
                return
            if not was_known and not self._peer.trusted:  # a proxy says something else of each client
                edge.known_heads.remember(head)
            edge.waiting.discard(self)
            Upgrade(edge, self._fd, request, received[head.size :], watched=self._waits)
            return
        self._let_go()
        edge.plain.adopt(self._fd, self._peer, received)

    def _wait(self) -> None:
        """Have what comes next read."""
        if not self._waits:
            self._waits = True
            self.deadline_ns = self._edge.head_deadline()
            self._edge.waiting.add(self)
            self._edge.poller.read(self._fd, self._read)

    def _let_go(self) -> None:
        self._edge.waiting.discard(self)
        if self._waits:
            self._edge.poller.unwatch(self._fd)

    def _refuse(self, refused: Refused) -> None:
        edge = self._edge
        self._let_go()
        edge.count_handshake(refused.route, refused.result, self._started_ns)
        edge.log_refusal(str(self._peer), refused)
        edge.answer(self._fd, refused)

    def _close(self) -> None:
        self._let_go()
        self._edge.drop(self._fd)
