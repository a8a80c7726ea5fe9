"""A connection before it can carry requests: its PROXY header or its TLS handshake has not come yet."""

from __future__ import annotations

from errno import EAGAIN, EINTR
from typing import TYPE_CHECKING

from gateway.edge.client import FRESH_NS

if TYPE_CHECKING:
    from gateway.edge.clients import Clients
    from gateway.edge.trust import Peer

NOT_NOW = (EAGAIN, EINTR)


class Entering:
    """What such connections have in common. Each ends as another one's: :meth:`_let_go`, or closed."""

    __slots__ = ("_clients", "_fd", "_over", "_peer", "_started_ns", "_touched", "_watched", "deadline_ns")

    def __init__(self, clients: Clients, fd: int, peer: Peer) -> None:
        """:param fd: a connection, non-blocking and not watched; this owns it until it lets go of it"""
        self._clients = clients
        self._fd = fd
        self._peer = peer
        self._watched = False
        self._touched = False
        """whether the client has sent anything"""
        self._over = False
        self._started_ns = clients.relay.now
        self.deadline_ns = self._started_ns + clients.config.request_head_ns
        clients.deadlines.add(self)

    def start(self, received: bytes | int) -> None:
        """Begin. :param received: what has come on it already, or an errno"""
        self._read(received)
        if not self._over:
            self._watched = True
            self._clients.poller.read(self._fd, self._read)

    def _read(self, data: bytes | int) -> None:
        """Take what has come, or an errno."""
        if isinstance(data, int):
            if data not in NOT_NOW:
                self._gone(data)
        elif data:
            self._touched = True
            self._take(data)
        else:
            self._gone(0)

    def _take(self, data: bytes) -> None:
        raise NotImplementedError

    def _gone(self, error: int) -> None:
        """Nothing more comes. If nothing came, the client only looked whether somebody listens, which is no fault.

        :param error: an errno; 0 for the end of the stream
        """
        raise NotImplementedError

    def late(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def close_if_idle(self) -> bool:
        """Close the connection unless something has come, or is about to. :returns: whether it is closed"""
        if not self._touched and self._clients.relay.now - self._started_ns >= FRESH_NS:
            self._close()
        return self._over

    def shut_down(self) -> None:
        """The gateway exits."""
        self._close()

    def abandon(self) -> None:
        """Something in here failed: close the connection."""
        self._close()

    def _let_go(self) -> None:
        """Forget the connection, which stays open."""
        self._over = True
        self._clients.deadlines.discard(self)
        if self._watched:
            self._watched = False
            self._clients.poller.unwatch(self._fd)

    def _close(self) -> None:
        if not self._over:
            self._let_go()
            self._clients.relay.retire(self._fd)
