"""Clients that a limit has refused lately, as the workers remember them."""

from __future__ import annotations

from typing import NamedTuple

from gateway.admin.state import GatewayState
from gateway.tunnels.quotas.layout import LIMITS, RECENT

NS = 1e9


class LimitedClient(NamedTuple):
    """One of them. Addresses are for those who may see the admin API; they are no labels of metrics."""

    address: str
    """of IPv6 the /64, since that is what is counted"""
    route: str
    limit: str
    """``handshakes_per_second`` or ``tunnels_per_client``"""
    times: int
    """how often, as far as it is remembered"""
    last: float
    """the latest time, in Unix seconds"""


def limited_clients(state: GatewayState) -> list[LimitedClient]:
    """The clients that were refused last, the latest first; ``RECENT`` at most."""
    if state.quotas is None:
        return []
    routes = state.registry.routes
    return [
        LimitedClient(
            str(each.client), routes[each.client.route], LIMITS[each.limit], each.times, round(each.at_unix_ns / NS, 3)
        )
        for each in state.quotas.limited()[:RECENT]
        if each.client.route < len(routes) and each.limit < len(LIMITS)
    ]
