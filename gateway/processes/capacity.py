"""How many tunnels a gateway has room for: ``max_tunnels``, or fewer if the descriptor limit is too low."""

from __future__ import annotations

import logging
from typing import Literal

from gateway.config.schema import Config
from gateway.edge.descriptors import Descriptors

MOST_AUTO_TUNNELS = 65536
log = logging.getLogger("gateway")


def capacity(max_tunnels: int | Literal["auto"], descriptors: Descriptors) -> int:
    """Return how many tunnels a gateway has room for: as configured, or as many as the descriptor limit allows.

    A tunnel needs two descriptors in its worker and two in the supervisor's store. The store holds the tunnels of all
    workers, so it sets the limit.
    """
    if max_tunnels != "auto":
        return max_tunnels
    return max(1, min(descriptors.tunnels, MOST_AUTO_TUNNELS))


def explain_capacity(max_tunnels: int, config: Config, descriptors: Descriptors) -> None:
    """Log the effect of the descriptor limit: a warning if fewer tunnels fit than the configuration asks for.

    :param max_tunnels: in force
    """
    if config.max_tunnels == "auto":
        if max_tunnels < MOST_AUTO_TUNNELS:
            log.info(
                "room for %d tunnels: descriptors are limited to %d per process (ulimit -Hn, LimitNOFILE=)",
                max_tunnels,
                descriptors.limit,
            )
    elif descriptors.tunnels < config.max_tunnels:
        log.warning(
            "descriptors are limited to %d per process, but max_tunnels is %d: %d tunnels can be open, and only %d of"
            " them would survive a worker crash; raise the hard limit (ulimit -Hn, LimitNOFILE=) or set max_tunnels to"
            " auto",
            descriptors.limit,
            config.max_tunnels,
            min(descriptors.tunnels * config.workers, config.max_tunnels),
            descriptors.tunnels,
        )
