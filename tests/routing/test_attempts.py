"""Which backend and address is tried next."""

import socket
import timeit

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.attempts import MOST_ADDRESSES, Attempts

from .tables import routes_of

FAMILY = socket.AF_INET


class Names:
    """Addresses by the name of a backend; each has one unless it is said."""

    def __init__(self, **counts):
        self.counts = counts
        self.asked = []

    def __call__(self, address):
        self.asked.append(address.host)
        return [(FAMILY, (f"{address.host}.{i}", address.port)) for i in range(self.counts.get(address.host, 1))]


def upstream(hosts="abc", retries=2, balance="round_robin"):
    backends = [f"{host}:1" for host in hosts]
    config = {"chat": {"backends": backends, "balance": balance, "connect_retries": retries}}
    return routes_of({}, upstreams=config).upstreams["chat"]


def all_of(attempts):
    """Every attempt, as `host.n`, until there is none; and each time the backend is the current one."""
    found = []
    while (attempt := attempts.next()) is not None:
        target, family, address = attempt
        assert attempts.target is target
        assert family == FAMILY
        assert address[0].startswith(target.address.host)
        found.append(address[0])
    assert attempts.next() is None
    return found


def test_each_backend_once():
    attempts = Attempts(upstream(), Names())
    assert attempts.target is None
    assert all_of(attempts) == ["a.0", "b.0", "c.0"]
    assert attempts.unresolved == ()


def test_nothing_is_looked_up_before_it_is_needed():
    names = Names()
    attempts = Attempts(upstream(), names)
    assert names.asked == []
    attempts.next()
    assert names.asked == ["a"]


def test_so_many_others_as_the_configuration_says():
    assert all_of(Attempts(upstream("abcde", retries=0), Names())) == ["a.0"]
    assert all_of(Attempts(upstream("abcde", retries=1), Names())) == ["a.0", "b.0"]
    assert all_of(Attempts(upstream("ab", retries=9), Names())) == ["a.0", "b.0"]


def test_addresses_of_a_backend_before_another_backend():
    attempts = Attempts(upstream(retries=1), Names(a=5, b=2))
    assert MOST_ADDRESSES == 3
    assert all_of(attempts) == ["a.0", "a.1", "a.2", "b.0", "b.1"]


def test_another_backend_in_place_of_one_that_is_being_tried():
    attempts = Attempts(upstream(retries=0), Names(a=2))
    assert attempts.next()[1:] == (FAMILY, ("a.0", 1))
    assert attempts.instead()[1:] == (FAMILY, ("b.0", 1))
    assert attempts.target.address.host == "b"
    assert attempts.next() is None


def test_no_other_backend_in_place_of_one_that_is_being_tried():
    attempts = Attempts(upstream("a", retries=1), Names(a=2))
    attempts.next()
    assert attempts.instead() is None
    assert attempts.target.address.host == "a"
    assert all_of(attempts) == ["a.1"]


def test_the_list_of_addresses_is_left_as_it_is():
    found = [(FAMILY, ("x", 1)), (FAMILY, ("y", 1))]
    attempts = Attempts(upstream("a"), lambda address: found)
    while attempts.next():
        pass
    assert len(found) == 2


def test_a_name_without_addresses_is_skipped_and_reported():
    attempts = Attempts(upstream("abcd", retries=1), Names(a=0, c=0))
    target, _, _ = attempts.next()
    assert target.label == "b:1"
    assert [target.label for target in attempts.unresolved] == ["a:1"]
    assert all_of(attempts) == ["d.0"]
    assert [target.label for target in attempts.unresolved] == ["a:1", "c:1"]


def test_no_name_has_addresses():
    attempts = Attempts(upstream(retries=0), Names(a=0, b=0, c=0))
    assert all_of(attempts) == []
    assert [target.label for target in attempts.unresolved] == ["a:1", "b:1", "c:1"]
    assert attempts.target is None


def test_no_backend_at_all():
    for balance in ("round_robin", "least_tunnels"):
        upstreams = {"chat": {"backends": ["a:1"], "balance": balance}}
        drained = routes_of({}, upstreams=upstreams, drained={0}).upstreams["chat"]
        assert all_of(Attempts(drained, Names())) == []


def test_the_next_request_has_attempts_of_its_own():
    chat = upstream("ab")
    first, second = Attempts(chat, Names()), Attempts(chat, Names())
    assert first.next()[0].label == "a:1"
    assert second.next()[0].label == "b:1"
    assert all_of(first) == ["b.0"]
    assert all_of(second) == ["a.0"]


def test_the_policy_is_told_what_it_is_for():
    chat = upstream()
    asked = []

    def pick(key, tried, *, brief):
        asked.append((key, [target.label for target in tried], brief))
        return chat.targets[len(tried)] if len(tried) < 2 else None

    chat.pick = pick
    all_of(Attempts(chat, Names(a=0), b"key", brief=True))
    assert asked == [(b"key", [], True), (b"key", ["a:1"], True), (b"key", ["a:1", "b:1"], True)]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.integers(0, 6),
    st.sampled_from(["round_robin", "least_tunnels"]),
)
def test_no_attempt_is_made_twice_and_none_is_left_out(counts, retries, balance):
    hosts = "abcdef"[: len(counts)]
    addresses = dict(zip(hosts, counts, strict=True))
    attempts = Attempts(upstream(hosts, retries, balance), Names(**addresses))
    found = all_of(attempts)
    tried = list(dict.fromkeys(name[0] for name in found))
    assert found == [f"{host}.{i}" for host in tried for i in range(min(addresses[host], MOST_ADDRESSES))]
    assert len(tried) == min(retries + 1, sum(count > 0 for count in counts))
    skipped = {target.address.host for target in attempts.unresolved}
    assert skipped <= {host for host in hosts if not addresses[host]}
    assert len(tried) == retries + 1 or skipped == {host for host in hosts if not addresses[host]}


def test_the_first_attempt_costs_little():
    found = [(FAMILY, ("127.0.0.1", 1))]

    def addresses(address):
        return found

    for balance in ("round_robin", "least_tunnels"):
        chat = upstream("a", balance=balance)
        seconds = min(timeit.repeat(lambda chat=chat: Attempts(chat, addresses).next(), number=2000, repeat=20)) / 2000
        # About 1 us; the bound leaves room for a machine that is busy, and none for a list or a copy of one.
        assert seconds < 5e-6
