"""An answer of the gateway's own that the client's socket did not take at once: what is left of it is sent.

It is bounded: the longest are those of an auth server that are relayed (``access/auth_server.py``).
"""

from __future__ import annotations

from errno import EAGAIN, EINTR
from select import EPOLLOUT
from typing import TYPE_CHECKING, Protocol

from gateway.tunnels.table.layout import NEVER

if TYPE_CHECKING:
    from gateway.edge.wire import Wire
    from gateway.tunnels.relay.poller import Poller

NOT_NOW = (EAGAIN, EINTR)


class Answered(Protocol):
    """The client's connection, as this sees it (``edge/client.py``)."""

    fd: int
    wire: Wire
    deadline_ns: int
    ahead: bytes

    def answered(self, keep: bool) -> None:
        """All of the answer is sent. :param keep: whether another request may follow"""

    def gone(self) -> None:
        """The client went away."""

    def cut(self, reset: bool) -> None:
        """The answer broke off: close the connection. :param reset: so that this does not look like its end"""


class Answering:
    """Sends the rest, in place of an exchange or an upgrade (``Task`` in ``edge/client.py``).

    Meanwhile the client is not read: what it sends ahead stays in its socket. Nor is the end of what it sends noticed:
    a client that has said all may still read.
    """

    __slots__ = ("_client", "_keep", "_poller", "_rest", "_stall_ns")

    def __init__(self, poller: Poller, client: Answered, rest: bytes, keep: bool, stall_ns: int) -> None:
        """
        :param rest: what the wire did not take
        :param keep: whether another request may follow
        :param stall_ns: how long the client may take nothing
        """
        self._poller = poller
        self._client = client
        self._rest = rest
        self._keep = keep
        self._stall_ns = stall_ns

    def start(self, watched: bool) -> None:
        """Begin to wait until the socket takes more. :param watched: whether epoll watches the client already"""
        client = self._client
        self._touch()
        if not watched:
            self._poller.watch(client.fd, EPOLLOUT, self._writable)
            return
        received = self._poller.rewatch(client.fd, EPOLLOUT, self._writable)
        if isinstance(received, bytes):
            client.ahead += received  # an end or an error is found again

    def _writable(self, mask: int) -> None:
        client = self._client
        sent = client.wire.write(client.fd, self._rest)
        if sent < 0:
            if -sent not in NOT_NOW:
                client.gone()
            return
        self._rest = self._rest[sent:]
        if self._rest:
            self._touch()
        else:
            client.answered(self._keep)

    def _touch(self) -> None:
        """Something was sent: set the next deadline."""
        stall_ns = self._stall_ns
        self._client.deadline_ns = NEVER if stall_ns >= NEVER else self._poller.relay.now + stall_ns

    def client_gone(self, error: int) -> None:
        """The client's connection ended. :param error: an errno; 0 for its end"""
        self._client.gone()

    def late(self) -> None:
        """The client has taken nothing for too long."""
        self._client.cut(reset=True)

    def shut_down(self) -> None:
        """The gateway exits."""
        self._client.cut(reset=True)

    def abandon(self) -> None:
        """Something failed."""
        self._client.gone()
