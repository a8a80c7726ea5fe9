"""What a balancing policy does, and which one an upstream has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal, Protocol

from gateway.routing.balancing.least_tunnels import LeastTunnels
from gateway.routing.balancing.round_robin import RoundRobin
from gateway.routing.balancing.target import Target

Key = bytes | str
"""What policies that hash look at: requests with the same key go to the same backend."""


class Policy(Protocol):
    """Chooses among the backends of one upstream, in one worker."""

    def pick(self, key: Key | None = None, tried: Collection[Target] = (), *, brief: bool = False) -> Target | None:
        """Return the backend to try next; None if all of them were tried.

        :param key: for policies that hash; the others ignore it
        :param tried: backends to leave out, because this tunnel or request has tried them
        :param brief: it is for a request, which is over soon, rather than for a tunnel, which stays
        """
        ...


def policy_of(
    name: Literal["round_robin", "least_tunnels"], targets: Sequence[Target], load: Callable[[int], int]
) -> Policy:
    """Return the policy called ``name`` in the configuration, over ``targets``.

    :param load: tunnels and requests in flight that all workers together have to a backend, by its number
    """
    if name == "round_robin":
        return RoundRobin(targets)
    return LeastTunnels(targets, load)
