"""``settling``: what an upstream does while tunnels are being moved to where they belong (``rebalancing.py``).

Clients whose tunnels were closed come back at once. Whatever the policy, they have to get to the backends that have too
few: under ``round_robin`` most of them would be spread over all backends again, and under ``sticky`` each would come
back to the backend that it has just left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gateway.routing.balancing.least_tunnels import LeastTunnels
from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.sticky import Sticky
from gateway.routing.balancing.target import Target
from gateway.routing.balancing.weights import Weights


class Settling:
    """The backend with the fewest tunnels for its weight, which counts in full (no slow start).

    A cookie still decides where no other backend has fewer.
    """

    __slots__ = ("_least", "_standing", "_sticky")

    def __init__(self, standing: Standing, sticky: Sticky | None) -> None:
        """:param sticky: reads cookies, and knows the candidates already; None if there are no cookies"""
        self._standing = standing
        self._sticky = sticky
        self._least = LeastTunnels(Weights(standing), standing)

    def use(self, candidates: Sequence[Target]) -> None:
        """As :meth:`gateway.routing.balancing.policy.Policy.use`."""
        self._least.use(candidates)

    def pick(
        self, key: bytes | str | None = None, tried: Collection[Target] = (), *, brief: bool = False
    ) -> Target | None:
        """As :meth:`gateway.routing.balancing.policy.Policy.pick`."""
        least = self._least.pick(None, tried, brief=brief)
        if least is None or self._sticky is None:
            return least
        named = self._sticky.pick(key, tried, brief=brief)
        if named is None:
            return least
        tunnels = self._standing.tunnels
        # Not a single one more: a client that was closed because of it would get there again.
        has_room = tunnels(named.number) * least.weight <= tunnels(least.number) * named.weight
        return named if has_room else least
