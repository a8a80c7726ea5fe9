"""What comes before everything else on a listener with ``proxy_protocol``: the PROXY header of a trusted proxy.

Trusted proxies have to send one: with a header that is optional, a client could send its own. What others send is never
taken for one, so to them the listener is like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from errno import EAGAIN, EINTR
from functools import partial
from typing import TYPE_CHECKING

from gateway.edge.client import FRESH_NS, Client
from gateway.edge.refused import Refused
from gateway.observe.seldom import Seldom
from gateway.protocol.proxy import BadHeader, HeaderReader, NoHeader

if TYPE_CHECKING:
    from gateway.edge.clients import Clients
    from gateway.edge.listener import Accept
    from gateway.edge.trust import Peer

GoOn = Callable[[int, "Peer", "bytes | int"], object]
"""Serves a connection behind its header: descriptor (not watched), the peer, what has come already or an errno. If it
raises, the descriptor is still the caller's."""

NOT_NOW = (EAGAIN, EINTR)
_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_HINT = "; have the proxy send one, or remove `proxy_protocol` from the listener"
log = logging.getLogger("gateway")


class Preambles:
    """Everything outside of itself that a preamble uses."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.complain = Seldom(log.warning)

    def entrance(self, go_on: GoOn) -> Accept:
        """How a listener with ``proxy_protocol`` serves what it accepts. :param go_on: serves what comes behind it"""
        return partial(self._accept, go_on)

    def _accept(self, go_on: GoOn, fd: int, address: object, received: bytes | int) -> None:
        peer = self.clients.config.trust.peer(address)
        if not peer.trusted:
            go_on(fd, peer, received)
            return
        self.clients.poller.give(fd, Preamble(self, go_on, fd, peer).start, received)


class Preamble:
    """A connection whose PROXY header has not come yet."""

    __slots__ = ("_fd", "_go_on", "_over", "_peer", "_reader", "_shared", "_started_ns", "_watched", "deadline_ns")

    def __init__(self, shared: Preambles, go_on: GoOn, fd: int, peer: Peer) -> None:
        """
        :param fd: a connection, non-blocking and not watched; this owns it until it goes on
        :param peer: the proxy
        """
        clients = shared.clients
        self._shared = shared
        self._go_on = go_on
        self._fd = fd
        self._peer = peer
        self._reader = HeaderReader()
        self._started_ns = clients.relay.now
        self._watched = False
        self._over = False
        self.deadline_ns = self._started_ns + clients.config.request_head_ns
        clients.deadlines.add(self)

    def start(self, received: bytes | int) -> None:
        """Begin. :param received: what has come on it already, or an errno"""
        self._read(received)
        if not self._over:
            self._watched = True
            self._shared.clients.poller.read(self._fd, self._read)

    def _read(self, data: bytes | int) -> None:
        """Take what has come, or an errno."""
        if isinstance(data, int):
            if data not in NOT_NOW:
                self._ended("bad_request", "the connection broke off within a PROXY header")
            return
        if not data:
            self._ended("bad_request", "the connection ended within a PROXY header")
            return
        try:
            header = self._reader.feed(data)
        except NoHeader as error:
            self._lacking(str(error))
        except BadHeader as error:
            self._refuse("bad_request", str(error))
        else:
            if header is not None:
                behind = self._reader.received[header.size :]
                peer = self._shared.clients.config.trust.behind(self._peer, header)
                self._let_go()
                try:
                    self._go_on(self._fd, peer, behind or EAGAIN)
                except Exception:
                    self._shared.clients.relay.retire(self._fd)
                    raise

    def _ended(self, result: str, reason: str) -> None:
        """Nothing more comes. Without a single byte it was a check of whether somebody listens, which is no fault."""
        if self._reader.received:
            self._refuse(result, reason)
        else:
            self._close()

    def _lacking(self, reason: str) -> None:
        """Something else came. What looks like HTTP gets an answer, as a person may read it."""
        begins = self._reader.received.lstrip(b"\r\n")
        if not begins or begins[0] not in _LETTERS:
            self._refuse("bad_request", reason, _HINT)
            return
        self._report("bad_request", reason, 400, _HINT)
        self._let_go()
        why = f"{reason}: this address is for clients of a proxy that sends one"
        Client(self._shared.clients, self._fd, self._peer).answer(Refused(400, why, "bad_request"), keep=False)

    def _refuse(self, result: str, reason: str, hint: str = "") -> None:
        """Close the connection: nothing that could be said would be understood."""
        self._report(result, reason, None, hint)
        self._close()

    def _report(self, result: str, reason: str, status: int | None, hint: str) -> None:
        shared = self._shared
        peer = str(self._peer)
        shared.complain("refused a connection from trusted proxy %s: %s%s", peer, reason, hint)
        shared.clients.handshakes.refused(peer, None, result, status, reason, self._started_ns)

    # --- the end ------------------------------------------------------------------------------------------------------

    def late(self) -> None:
        """The deadline has passed."""
        self._ended("timeout", "the PROXY header did not come in time")

    def close_if_idle(self) -> bool:
        """Close the connection unless its header is about to come. :returns: whether it is closed"""
        if not self._reader.received and self._shared.clients.relay.now - self._started_ns >= FRESH_NS:
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
        clients = self._shared.clients
        clients.deadlines.discard(self)
        if self._watched:
            self._watched = False
            clients.poller.unwatch(self._fd)

    def _close(self) -> None:
        if not self._over:
            self._let_go()
            self._shared.clients.relay.retire(self._fd)
