"""What is done when descriptors run short, so that there are always some left to say so with.

Descriptors are numbered from the lowest free one, so a high number says how many are in use. Tunnels stop short of the
limit; beyond that, those who ask for one are told 503. Still closer to it connections are taken one at a time only.
"""

from __future__ import annotations

import logging
import socket
from errno import EMFILE, ENFILE
from typing import TYPE_CHECKING

from gateway.edge.request import Refused
from gateway.observe.seldom import Seldom

if TYPE_CHECKING:
    from gateway.routing.routes import Route

SPARE = 256
"""Descriptors that tunnels leave for all else: refusals, logs, metrics, an operator's questions, a new worker."""

EXHAUSTED = (EMFILE, ENFILE)
log = logging.getLogger("gateway")


class Descriptors:
    """The descriptors of one process."""

    def __init__(self, limit: int) -> None:
        """:param limit: one more than the largest that this process may have"""
        self.limit = limit
        spare = min(SPARE, limit // 8)
        self.for_tunnels = limit - spare
        """one more than the largest that a tunnel may have"""
        self.for_connections = limit - spare // 4
        """the same for connections of all kinds"""
        self._say = Seldom(log.error)

    @property
    def tunnels(self) -> int:
        """About how many tunnels this process can have."""
        return self.for_tunnels // 2

    def backend_socket(self, family: int) -> socket.socket:
        """A socket for a tunnel's backend.

        :raises Refused: descriptors are short
        """
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise self.refusal(error) from None
        if sock.fileno() >= self.for_tunnels:
            sock.close()
            raise self.refusal("the last ones are kept for refusals and the like")
        return sock

    def refusal(self, why: OSError | str, route: Route | None = None) -> Refused:
        """What a client is told for whom there is no descriptor. The log is told too, though not of each."""
        reason = why if isinstance(why, str) else why.strerror
        self._say("short of descriptors: %s; raise the hard limit (ulimit -Hn, LimitNOFILE=)", reason)
        return Refused(503, "this gateway is short of descriptors", "unavailable", route)
