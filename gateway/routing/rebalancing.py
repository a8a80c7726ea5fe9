"""Which tunnels of an upstream are on a backend that ought not to have them.

It is decided from what the shared table says of tunnels, and from the upstream's policy. Where the policy goes by load,
each backend has a share of all tunnels by its weight, and those beyond it are surplus. Under ``consistent_hash`` each
tunnel belongs to the backend that its key prefers.

Only WebSocket tunnels are moved: their clients are sent a Close frame and connect again. The longest idle go first.
Tunnels to backends that are drained, down or no longer configured are left alone, and nothing is moved there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.routing.balancing import Target
from gateway.routing.balancing.consistent_hash import ConsistentHash
from gateway.routing.upstream import Upstream


class Tunnel(NamedTuple):
    """What the table says of a tunnel."""

    id: int
    slot: int
    """of its worker"""
    backend: int
    """number in the registry"""
    idle_ns: int
    """since the latest byte from either side"""
    opened_ns: int
    """``CLOCK_MONOTONIC``"""
    hash_key: int
    """for :meth:`Upstream.bucket_in`"""
    is_websocket: bool
    is_leaving: bool
    """whether it is ending, or has its turn to be closed already"""
    is_ending: bool = False


class Share(NamedTuple):
    """What one backend has, and ought to have."""

    target: Target
    tunnels: int
    """that it has, without those that are leaving"""
    share: int
    """tunnels that it ought to have"""
    surplus: int
    """tunnels that are to leave it"""


class Plan(NamedTuple):
    """What is to be moved."""

    shares: tuple[Share, ...]
    moves: tuple[Tunnel, ...]
    """the longest idle first"""
    fixed: int
    """tunnels that belong elsewhere but cannot be moved: they are no WebSocket tunnels"""
    unknown: int
    """tunnels whose key is not known, as something else was hashed when they opened"""


def plan(
    upstream: Upstream,
    tunnels: Iterable[Tunnel],
    *,
    away: int = 0,
    before_ns: int | None = None,
    ordered: Collection[int] = (),
) -> Plan:
    """Plan for one upstream.

    :param tunnels: of any upstream. Those that are ending count for nothing: the client may be back already
    :param away: tunnels that were closed by this a moment ago, or are ending, and whose clients are expected back
    :param before_ns: only tunnels opened before are moved: nobody is moved twice
    :param ordered: ids of tunnels that are leaving, whatever the table says
    """
    numbers = {target.number for target in (*upstream.candidates(), *upstream.backups())}
    ours = [
        tunnel._replace(is_leaving=True) if tunnel.id in ordered else tunnel
        for tunnel in tunnels
        if tunnel.backend in numbers and not tunnel.is_ending
    ]
    policy = upstream.hashing()
    found = _by_load(upstream, ours, away, before_ns) if policy is None else _by_key(upstream, policy, ours, before_ns)
    return found._replace(moves=tuple(sorted(found.moves, key=lambda tunnel: (-tunnel.idle_ns, tunnel.id))))


def shares(total: int, targets: Sequence[Target], has: Mapping[int, int]) -> dict[int, int]:
    """Divide tunnels by weight; backends get no more than their ``max_tunnels``. The sum is less if all are full.

    What is left after rounding down goes to the largest remainders, and among equal ones to backends that have more
    beyond that already, so that no tunnel is moved for a remainder.

    :param has: tunnels by number
    :returns: tunnels by number
    """
    found: dict[int, int] = {}
    left = list(targets)
    while left:
        weight = sum(target.weight for target in left)
        full = [target for target in left if target.max_tunnels and target.max_tunnels * weight < total * target.weight]
        if not full:
            break
        for target in full:
            found[target.number] = target.max_tunnels
            total -= target.max_tunnels
            left.remove(target)
    if not left:
        return found
    for target in left:
        found[target.number] = total * target.weight // weight
    rest = total - sum(found[target.number] for target in left)

    def claim(target: Target) -> tuple[int, int]:
        return total * target.weight % weight, has.get(target.number, 0) - found[target.number]

    by_remainder = sorted(left, key=claim, reverse=True)
    for target in by_remainder[:rest]:
        found[target.number] += 1
    return found


def _by_load(upstream: Upstream, tunnels: list[Tunnel], away: int, before_ns: int | None) -> Plan:
    staying = Counter(tunnel.backend for tunnel in tunnels if not tunnel.is_leaving)
    targets, backups = upstream.candidates(), upstream.backups()
    total = len(tunnels) + away
    ought = shares(total, targets, staying)
    ought |= shares(total - sum(ought.values()), backups, staying)
    movable: dict[int, list[Tunnel]] = {}
    fixed: Counter[int] = Counter()
    for tunnel in tunnels:
        if tunnel.is_leaving:
            continue
        if not tunnel.is_websocket:
            fixed[tunnel.backend] += 1
        elif before_ns is None or tunnel.opened_ns < before_ns:
            movable.setdefault(tunnel.backend, []).append(tunnel)
    found = []
    moves: list[Tunnel] = []
    stuck = 0
    for target in (*targets, *backups):
        has, share = staying[target.number], ought.get(target.number, 0)
        leaving = sorted(movable.get(target.number, ()), key=lambda tunnel: (-tunnel.idle_ns, tunnel.id))
        leaving = leaving[: max(has - share, 0)]
        stuck += min(max(has - share - len(leaving), 0), fixed[target.number])
        moves += leaving
        found.append(Share(target, has, share, len(leaving)))
    return Plan(tuple(found), tuple(moves), stuck, 0)


def _by_key(upstream: Upstream, policy: ConsistentHash, tunnels: list[Tunnel], before_ns: int | None) -> Plan:
    """Every tunnel that is not at the first choice of its key, unless that has no room for it."""
    targets = (*upstream.candidates(), *upstream.backups())
    staying = Counter(tunnel.backend for tunnel in tunnels if not tunnel.is_leaving)
    ought = staying.copy()
    surplus: Counter[int] = Counter()
    moves: list[Tunnel] = []
    fixed = unknown = 0
    for tunnel in tunnels:
        if tunnel.is_leaving:
            continue
        bucket = upstream.bucket_in(tunnel.hash_key)
        if bucket is None:
            unknown += 1
            continue
        home = policy.home(bucket)
        if home is None or home.number == tunnel.backend:
            continue
        if not tunnel.is_websocket:
            fixed += 1
        elif before_ns is None or tunnel.opened_ns < before_ns:
            there = ought[home.number]
            if (not home.max_tunnels or there < home.max_tunnels) and policy.may_have(home, there, len(tunnels)):
                ought[home.number] += 1
                ought[tunnel.backend] -= 1
                surplus[tunnel.backend] += 1
                moves.append(tunnel)
    found = [Share(target, staying[target.number], ought[target.number], surplus[target.number]) for target in targets]
    return Plan(tuple(found), tuple(moves), fixed, unknown)
