"""Which tunnels are moved: each backend's share by weight, or the keys that belong elsewhere."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.rebalancing import Tunnel, plan, shares
from gateway.routing.upstream import Upstream

from .standing import FakeStanding
from .tables import routes_of

BY_LOAD = ["least_tunnels", "round_robin", "random_two", "sticky"]
counts = st.lists(st.integers(0, 60), min_size=2, max_size=6)


def upstream(names: str, standing: FakeStanding | None = None, options: dict[str, dict] | None = None, **keys):
    """With backends named by letters, numbered in this order."""
    listed = [{"address": f"{name}:1"} | (options or {}).get(name, {}) for name in names]
    config = {"chat": {"backends": listed, **keys}}
    return routes_of({}, upstreams=config, standing=standing, secret=b"secret").upstreams["chat"]


def tunnels_on(has, **cells) -> list[Tunnel]:
    """So many on each backend. Each is idle for longer than those before."""
    ids = count(1)
    return [
        Tunnel(i := next(ids), i % 2, number, i, 0, 0, True, False)._replace(**cells)
        for number, tunnels in enumerate(has)
        for _ in range(tunnels)
    ]


def leave(tunnels, moves) -> Counter[int]:
    """Where tunnels are once those have left."""
    gone = {tunnel.id for tunnel in moves}
    return Counter(tunnel.backend for tunnel in tunnels if tunnel.id not in gone)


def come_back(among: Upstream, standing: FakeStanding, clients: int, keys=None) -> None:
    """Clients connect again, while the upstream settles."""
    among.settle(1 << 62)
    for i in range(clients):
        target = among.pick(None if keys is None else keys[i])
        standing.loads[target.number] += 1


@given(has=counts, balance=st.sampled_from(BY_LOAD))
@settings(max_examples=40, deadline=None)
def test_after_the_plan_and_reconnects_each_has_its_share(has, balance):
    names = "abcdef"[: len(has)]
    standing = FakeStanding()
    among = upstream(names, standing, balance=balance)
    tunnels = tunnels_on(has)
    found = plan(among, tunnels)
    share = sum(has) / len(has)
    assert len(found.moves) <= sum(max(0, tunnels - share) for tunnels in has) + 1e-6
    standing.loads.update(leave(tunnels, found.moves))
    come_back(among, standing, len(found.moves))
    assert all(abs(standing.loads[number] - share) < 1 for number in range(len(has)))
    assert sum(each.surplus for each in found.shares) == len(found.moves)


@given(has=counts, weights=st.lists(st.integers(1, 5), min_size=6, max_size=6))
@settings(max_examples=40, deadline=None)
def test_shares_go_by_weight(has, weights):
    names = "abcdef"[: len(has)]
    among = upstream(names, options={name: {"weight": weights[i]} for i, name in enumerate(names)})
    tunnels = tunnels_on(has)
    found = plan(among, tunnels)
    total, weight = sum(has), sum(weights[: len(has)])
    left = leave(tunnels, found.moves)
    for share in found.shares:
        exact = total * share.target.weight / weight
        assert abs(share.share - exact) < 1
        assert left[share.target.number] == min(has[share.target.number], share.share)
    assert sum(share.share for share in found.shares) == total
    again = [tunnel for tunnel in tunnels if tunnel not in found.moves]
    assert plan(among, again, away=len(found.moves)).moves == ()


def test_half_of_the_tunnels_move_when_the_backends_double():
    found = plan(upstream("abcd"), tunnels_on([1000, 1000]))
    assert [(each.tunnels, each.share, each.surplus) for each in found.shares] == [
        (1000, 500, 500),
        (1000, 500, 500),
        (0, 500, 0),
        (0, 500, 0),
    ]


def test_the_longest_idle_move_first():
    found = plan(upstream("ab"), tunnels_on([10]))
    assert [tunnel.id for tunnel in found.moves] == [10, 9, 8, 7, 6]


def test_no_tunnel_is_moved_for_a_remainder():
    for has in ([2, 1], [1, 2], [4, 3, 3], [3, 3, 4]):
        assert plan(upstream("abc"[: len(has)]), tunnels_on(has)).moves == ()


def test_what_is_leaving_counts_but_does_not_move():
    tunnels = tunnels_on([10])
    leaving = [tunnel._replace(is_leaving=True) for tunnel in tunnels[-4:]]
    found = plan(upstream("ab"), [*tunnels[:-4], *leaving])
    assert [tunnel.id for tunnel in found.moves] == [6]  # 5 are to stay
    assert plan(upstream("ab"), tunnels, ordered={10, 9, 8, 7, 6}).moves == ()
    assert plan(upstream("ab"), tunnels_on([5]), away=5).moves == ()  # they have left, and come back soon


def test_a_client_that_is_back_before_its_tunnel_has_ended_counts_once():
    ending = tunnels_on([1], is_leaving=True, is_ending=True)[0]._replace(id=99)
    found = plan(upstream("ab"), [*tunnels_on([6, 4]), ending])
    assert [tunnel.id for tunnel in found.moves] == [6]


def test_only_websocket_tunnels_move():
    found = plan(upstream("ab"), tunnels_on([10], is_websocket=False))
    assert (found.moves, found.fixed) == ((), 5)


def test_nobody_is_moved_twice():
    tunnels = [*tunnels_on([10], opened_ns=5), *tunnels_on([4], opened_ns=20)]
    assert {tunnel.opened_ns for tunnel in plan(upstream("ab"), tunnels, before_ns=20).moves} == {5}
    assert plan(upstream("ab"), tunnels, before_ns=5).moves == ()


# --- backends that get nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [*BY_LOAD, "consistent_hash"])
def test_nothing_moves_to_or_from_backends_out_of_service(balance):
    standing = FakeStanding()
    among = upstream("abcd", standing, {"d": {"drain": True}}, balance=balance)
    standing.change(down={2})
    tunnels = tunnels_on([8, 0, 30, 30], hash_key=among.hash_key(b"x"))
    found = plan(among, tunnels)
    assert {each.target.label[0] for each in found.shares} == {"a", "b"}
    assert {tunnel.backend for tunnel in found.moves} <= {0}
    if balance != "consistent_hash":
        assert len(found.moves) == 4


def test_backups_give_back_what_they_have():
    among = upstream("abc", options={"c": {"backup": True}})
    found = plan(among, tunnels_on([3, 3, 6]))
    assert Counter(tunnel.backend for tunnel in found.moves) == {2: 6}
    assert [each.share for each in found.shares] == [6, 6, 0]


def test_backups_share_while_no_other_is_in_service():
    standing = FakeStanding()
    among = upstream("abc", standing, {"b": {"backup": True}, "c": {"backup": True}})
    standing.change(down={0})
    assert [each.share for each in plan(among, tunnels_on([4, 8])).shares] == [4, 4]


def test_nobody_gets_more_than_max_tunnels():
    among = upstream("abc", options={"b": {"max_tunnels": 2}})
    found = plan(among, tunnels_on([12]))
    assert [each.share for each in found.shares] == [5, 2, 5]
    full = upstream("ab", options={"a": {"max_tunnels": 5}, "b": {"max_tunnels": 2}})
    assert shares(12, full.targets, {}) == {0: 5, 1: 2}


# --- consistent_hash --------------------------------------------------------------------------------------------------


@given(before=st.integers(1, 4), after=st.integers(1, 6), hash_on=st.sampled_from(["path", "header:X-Room"]))
@settings(max_examples=20, deadline=None)
def test_with_a_hash_just_the_keys_that_moved(before, after, hash_on):
    names = "abcdef"
    old = upstream(names[:before], balance="consistent_hash", hash_on=hash_on)
    standing = FakeStanding()
    new = upstream(names[:after], standing, balance="consistent_hash", hash_on=hash_on)
    keys = [b"room-%d" % i for i in range(200)]
    tunnels = [Tunnel(i, 0, old.pick(key).number, i, 0, old.hash_key(key), True, False) for i, key in enumerate(keys)]
    elsewhere = {
        tunnel.id
        for tunnel, key in zip(tunnels, keys, strict=True)
        if tunnel.backend < after and tunnel.backend != new.pick(key).number
    }
    found = plan(new, tunnels)
    assert {tunnel.id for tunnel in found.moves} == elsewhere
    if before == after:
        assert not elsewhere
    standing.loads.update(leave(tunnels, found.moves))
    moved = [keys[tunnel.id] for tunnel in found.moves]
    come_back(new, standing, len(moved), moved)
    for share in found.shares:
        assert standing.loads[share.target.number] == share.share


def test_a_key_of_something_else_is_not_known():
    by_path = upstream("ab", balance="consistent_hash", hash_on="path")
    by_room = upstream("ab", balance="consistent_hash", hash_on="header:X-Room")
    keys = [by_path.hash_key(b"%d" % i) for i in range(20)]
    tunnels = [Tunnel(i, 0, i % 2, i, 0, key, True, False) for i, key in enumerate([*keys, 0])]
    assert (plan(by_room, tunnels).moves, plan(by_room, tunnels).unknown) == ((), 21)
    assert plan(by_path, tunnels).moves
    assert plan(by_path, tunnels).unknown == 1


def test_a_key_is_not_moved_to_where_it_has_no_room():
    names = "ab"
    among = upstream(names, balance="consistent_hash", hash_on="path")
    home = among.pick(b"room").number
    for options, moved in (({}, 30), ({names[home]: {"max_tunnels": 7}}, 7)):
        among = upstream(names, options=options, balance="consistent_hash", hash_on="path", hash_bound="off")
        tunnels = tunnels_on([0, 30] if home == 0 else [30], hash_key=among.hash_key(b"room"))
        assert len(plan(among, tunnels).moves) == moved
    bound = upstream(names, balance="consistent_hash", hash_on="path", hash_bound=1.5)
    tunnels = tunnels_on([0, 1000] if home == 0 else [1000], hash_key=bound.hash_key(b"room"))
    assert 700 < len(plan(bound, tunnels).moves) < 850  # one and a half of 500, and 50 more


# --- settling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", BY_LOAD)
def test_while_it_settles_new_tunnels_go_where_the_fewest_are(balance):
    standing = FakeStanding()
    among = upstream("abcd", standing, balance=balance)
    standing.loads.update({0: 10, 1: 10})
    come_back(among, standing, 20)
    assert standing.loads == {0: 10, 1: 10, 2: 10, 3: 10}


def test_settling_ends_by_itself_and_requests_are_not_concerned():
    now = [0.0]
    standing = FakeStanding(clock=lambda: now[0])
    among = upstream("ab", standing, balance="round_robin")
    standing.loads[0] = 1000
    among.settle(5_000_000_000)
    assert {among.pick().label for _ in range(4)} == {"b:1"}
    assert {among.pick(brief=True).label for _ in range(4)} == {"a:1", "b:1"}
    now[0] = 5.0
    assert {among.pick().label for _ in range(4)} == {"a:1", "b:1"}


def test_while_it_settles_a_cookie_decides_only_where_there_is_room():
    standing = FakeStanding()
    among = upstream("ab", standing, balance="sticky")
    assert among.sticky is not None
    line = among.sticky.set_cookie(b"", among.targets[0], False)
    value = line.partition(b"=")[2].partition(b";")[0]
    standing.loads.update({0: 10, 1: 4})
    assert among.pick(value).label == "a:1"
    among.settle(1 << 62)
    assert among.pick(value).label == "b:1"
    assert among.pick(value, brief=True).label == "a:1"
    standing.loads.update({1: 6})
    assert among.pick(value).label == "a:1"
