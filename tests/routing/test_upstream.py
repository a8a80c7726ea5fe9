"""Which backends may be chosen at all: states, backups, limits, drained ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .standing import FakeStanding
from .tables import routes_of

POLICIES = ["round_robin", "least_tunnels", "random_two", "consistent_hash", "sticky"]
every_policy = pytest.mark.parametrize("balance", POLICIES)


def upstream(*backends, standing=None, **more):
    """With backends named by letters, each with options or none."""
    listed = [{"address": f"{name}:1"} | options for name, options in backends]
    config = {"chat": {"backends": listed, "balance": "round_robin"} | more}
    return routes_of({}, upstreams=config, standing=standing, secret=b"secret").upstreams["chat"]


def plain(names, **more):
    return upstream(*((name, {}) for name in names), **more)


def chosen(among, keys=range(60), **how):
    """The names that were chosen, once each."""
    return "".join(sorted({target.label[0] for key in keys if (target := among.pick(b"%d" % key, **how)) is not None}))


# --- states -----------------------------------------------------------------------------------------------------------


@every_policy
def test_what_is_out_of_service_gets_nothing_until_it_is_back(balance):
    standing = FakeStanding()
    abc = plain("abc", standing=standing, balance=balance)
    assert chosen(abc) == "abc"
    standing.change(out={1})
    assert chosen(abc) == "ac"
    standing.change(down={2})
    assert chosen(abc) == "ab"
    standing.change()
    assert chosen(abc) == "abc"


def test_states_are_looked_at_only_when_they_have_changed():
    looks = []
    standing = FakeStanding()
    abc = plain("abc", standing=standing)
    standing.is_out = lambda number: bool(looks.append(number))
    assert chosen(abc) == "abc"
    assert len(looks) == 3
    standing.change()
    assert chosen(abc) == "abc"
    assert len(looks) == 6


@every_policy
def test_when_most_are_ejected_ejections_are_ignored(balance):
    standing = FakeStanding()
    abcd = plain("abcd", standing=standing, balance=balance)
    standing.change(out={0, 1})
    assert chosen(abcd) == "cd"
    standing.change(out={0, 1, 2})
    assert chosen(abcd) == "abcd"
    standing.change(out={0, 1}, down={2})
    assert chosen(abcd) == "abd"


def test_those_that_are_down_get_nothing_even_if_they_are_all():
    standing = FakeStanding()
    ab = plain("ab", standing=standing)
    standing.change(down={0, 1})
    assert chosen(ab) == ""
    assert ab.why_none() == "no backend is in service"


# --- backups, drained ones --------------------------------------------------------------------------------------------


@every_policy
def test_backups_wait_until_no_other_is_left(balance):
    standing = FakeStanding()
    backends = [("a", {}), ("b", {}), ("y", {"backup": True}), ("z", {"backup": True})]
    some = upstream(*backends, standing=standing, balance=balance)
    a, b, *_ = some.targets
    assert chosen(some) == "ab"
    assert chosen(some, tried=(a,)) == "b"
    assert chosen(some, tried=(a, b)) == "yz"
    standing.change(down={0, 1})
    assert chosen(some) == "yz"
    standing.change(down={0, 1, 2})
    assert chosen(some) == "z"
    standing.change()
    assert chosen(some) == "ab"


@every_policy
def test_drain_true_gets_nothing(balance):
    some = upstream(("a", {"drain": True}), ("b", {}), balance=balance)
    assert chosen(some) == "b"
    assert [target.label for target in some.targets] == ["b:1"]


# --- max_tunnels ------------------------------------------------------------------------------------------------------


@every_policy
@settings(max_examples=10)
@given(data=st.data())
def test_no_backend_gets_more_than_its_max(balance, data):
    limits = data.draw(st.lists(st.none() | st.integers(1, 20), min_size=1, max_size=4))
    standing = FakeStanding()
    backends = [
        (name, {} if most is None else {"max_tunnels": most}) for name, most in zip("abcd", limits, strict=False)
    ]
    some = upstream(*backends, standing=standing, balance=balance)
    for key in range(100):
        target = some.pick(b"%d" % key)
        if target is None:
            assert [standing.loads[i] for i in range(len(limits))] == limits
            assert some.why_none() == "all backends are full (max_tunnels)"
            break
        standing.loads[target.number] += 1
    for i, most in enumerate(limits):
        assert most is None or standing.loads[i] <= most


@every_policy
def test_what_is_full_has_room_again_when_a_tunnel_ends(balance):
    standing = FakeStanding()
    some = upstream(("a", {"max_tunnels": 2}), standing=standing, balance=balance)
    standing.loads[0] = 2
    assert some.pick(b"key") is None
    standing.loads[0] = 1
    assert some.pick(b"key").label == "a:1"


@every_policy
def test_requests_are_not_bounded_by_max_tunnels_nor_do_they_count(balance):
    standing = FakeStanding()
    some = upstream(("a", {"max_tunnels": 2}), standing=standing, balance=balance)
    standing.loads[0] = 2
    assert some.pick(b"key", brief=True).label == "a:1"
    standing.loads[0], standing.requests[0] = 1, 50
    assert some.pick(b"key").label == "a:1"


def test_a_backup_takes_what_full_ones_cannot():
    standing = FakeStanding()
    some = upstream(("a", {"max_tunnels": 1}), ("z", {"backup": True, "max_tunnels": 1}), standing=standing)
    assert some.pick().label == "a:1"
    standing.loads[0] = 1
    assert some.pick().label == "z:1"
    standing.loads[1] = 1
    assert some.pick() is None


def test_why_none_says_full_only_if_all_are():
    standing = FakeStanding()
    some = upstream(("a", {"max_tunnels": 1}), ("b", {}), standing=standing)
    standing.loads[0] = 1
    assert some.pick(None, tuple(some.targets)) is None
    assert some.why_none() == "no backend"


# --- everything tried -------------------------------------------------------------------------------------------------


@every_policy
@given(tried=st.sets(st.integers(0, 4)))
@settings(max_examples=20)
def test_whatever_was_tried_is_left_out(balance, tried):
    five = plain("abcde", balance=balance)
    left_out = tuple(five.targets[i] for i in tried)
    expected = "".join(name for i, name in enumerate("abcde") if i not in tried)
    assert chosen(five, tried=left_out) == expected
