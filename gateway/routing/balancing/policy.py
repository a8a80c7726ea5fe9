"""What a balancing policy does, and which ones an upstream has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.routing.balancing.consistent_hash import ConsistentHash
from gateway.routing.balancing.least_tunnels import LeastTunnels
from gateway.routing.balancing.random_two import RandomTwo
from gateway.routing.balancing.round_robin import RoundRobin
from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.target import Target
from gateway.routing.balancing.weights import SECOND, Weights

if TYPE_CHECKING:
    from gateway.config.settings import Upstream as UpstreamSettings

Key = bytes | str
"""What policies that hash look at: requests with the same key go to the same backend."""


class Policy(Protocol):
    """Chooses among backends of one upstream, in one worker."""

    def use(self, candidates: Sequence[Target]) -> None:
        """Choose among these from now on: those that are in service. Called again whenever that changes."""
        ...

    def pick(self, key: Key | None = None, tried: Collection[Target] = (), *, brief: bool = False) -> Target | None:
        """Return the backend to try next; None if all of them were tried.

        :param key: for policies that hash; the others ignore it
        :param tried: backends to leave out, because this tunnel or request has tried them, or they are full
        :param brief: it is for a request, which is over soon, rather than for a tunnel, which stays
        """
        ...


def policy_of(settings: UpstreamSettings, targets: Sequence[Target], standing: Standing) -> Policy:
    """Return the policy that an upstream's settings name; what ``sticky`` does without a cookie for that.

    :param targets: all that it may ever choose. It has no candidates yet: :meth:`Policy.use` gives it some
    """
    if settings.balance == "consistent_hash":
        return ConsistentHash(targets, standing, settings.hash_bound)
    weights = Weights(standing, round((settings.slow_start or 0) * SECOND))
    if settings.balance == "round_robin":
        return RoundRobin(weights)
    if settings.balance == "random_two":
        return RandomTwo(weights, standing)
    return LeastTunnels(weights, standing)
