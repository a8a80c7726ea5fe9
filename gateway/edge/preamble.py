"""What comes before everything else on a listener with ``proxy_protocol``: the PROXY header of a trusted proxy.

Trusted proxies have to send one: with a header that is optional, a client could send its own. What others send is never
taken for one, so to them the listener is like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from errno import EAGAIN
from functools import partial
from typing import TYPE_CHECKING

from gateway.edge.client import Client
from gateway.edge.entering import Entering
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


class Preamble(Entering):
    """A connection whose PROXY header has not come yet."""

    __slots__ = ("_go_on", "_reader", "_shared")

    def __init__(self, shared: Preambles, go_on: GoOn, fd: int, peer: Peer) -> None:
        """
        :param fd: a connection, non-blocking and not watched; this owns it until it goes on
        :param peer: the proxy
        """
        super().__init__(shared.clients, fd, peer)
        self._shared = shared
        self._go_on = go_on
        self._reader = HeaderReader()

    def _take(self, data: bytes) -> None:
        try:
            header = self._reader.feed(data)
        except NoHeader as error:
            self._lacking(str(error))
        except BadHeader as error:
            self._refuse("bad_request", str(error))
        else:
            if header is not None:
                behind = self._reader.received[header.size :]
                peer = self._clients.config.trust.behind(self._peer, header)
                self._let_go()
                try:
                    self._go_on(self._fd, peer, behind or EAGAIN)
                except Exception:
                    self._clients.relay.retire(self._fd)
                    raise

    def _gone(self, error: int) -> None:
        how = "broke off" if error else "ended"
        self._end("bad_request", f"the connection {how} within a PROXY header")

    def late(self) -> None:
        """The deadline has passed."""
        self._end("timeout", "the PROXY header did not come in time")

    def _end(self, result: str, reason: str) -> None:
        if self._touched:
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
        Client(self._clients, self._fd, self._peer).answer(Refused(400, why, "bad_request"), keep=False)

    def _refuse(self, result: str, reason: str, hint: str = "") -> None:
        """Close the connection: nothing that could be said would be understood."""
        self._report(result, reason, None, hint)
        self._close()

    def _report(self, result: str, reason: str, status: int | None, hint: str) -> None:
        shared = self._shared
        peer = str(self._peer)
        shared.complain("refused a connection from trusted proxy %s: %s%s", peer, reason, hint)
        shared.clients.handshakes.refused(peer, None, result, status, reason, self._started_ns)
