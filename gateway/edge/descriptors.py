"""What is done when descriptors run short, so that there are always some left to say so with.

Descriptors are numbered from the lowest free one, so a high number says how many are in use. Tunnels stop short of the
limit; beyond that, those who ask for one are told 503. Still closer to it connections are taken one at a time only.
"""

from __future__ import annotations

import logging
import os
from errno import EMFILE, ENFILE
from typing import TYPE_CHECKING

from gateway.edge.refused import Refused
from gateway.observe.seldom import Seldom

if TYPE_CHECKING:
    from gateway.routing.routes import Route
    from gateway.tunnels.relay.kernel import Kernel

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

    def backend_socket(self, kernel: Kernel, family: int) -> int:
        """A socket for a tunnel's backend.

        :returns: its descriptor
        :raises Refused: descriptors are short
        """
        fd = kernel.open(family)
        if fd < 0:
            raise self.refusal(os.strerror(-fd))
        if fd >= self.for_tunnels:
            kernel.close(fd)
            raise self.refusal("the last ones are kept for refusals and the like")
        return fd

    def refusal(self, why: OSError | str, route: Route | None = None) -> Refused:
        """What a client is told for whom there is no descriptor. The log is told too, though not of each."""
        reason = why if isinstance(why, str) else why.strerror
        self._say("short of descriptors: %s; raise the hard limit (ulimit -Hn, LimitNOFILE=)", reason)
        return Refused(503, "this gateway is short of descriptors", "unavailable", route)
