"""``consistent_hash``: the same choice everywhere, and as few moves as can be."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Address
from gateway.routing.balancing import Target
from gateway.routing.balancing.consistent_hash import SPARE, ConsistentHash
from gateway.routing.balancing.rendezvous import Rendezvous, bucket_of

from ..standing import FakeStanding
from .backends import WEIGHTS, check_tried, targets

ROOT = Path(__file__).parents[3]
KEYS = [f"203.0.{i >> 8}.{i & 255}".encode() for i in range(10_000)]
PORTS = st.lists(st.integers(1, 65535), min_size=10, max_size=10, unique=True)


def backends(ports, weights=None, host="10.0.0.1"):
    return [
        Target(i, "chat", Address(host, port), weight, f"{host}:{port}")
        for i, (port, weight) in enumerate(zip(ports, weights or [1] * len(ports), strict=True))
    ]


def hashing(among, standing=None, bound=None, candidates=None):
    policy = ConsistentHash(among, standing or FakeStanding(), bound)
    policy.use(among if candidates is None else candidates)
    return policy


def homes(policy, keys=KEYS):
    return {key: policy.pick(key).label for key in keys}


@cache
def of_ten():
    return homes(hashing(backends(range(9001, 9011))))


# --- shares and moves -------------------------------------------------------------------------------------------------


@settings(max_examples=3)
@given(PORTS)
def test_keys_spread_evenly(ports):
    found = Counter(homes(hashing(backends(ports))).values())
    assert len(found) == 10
    assert min(found.values()) >= 850
    assert max(found.values()) <= 1150


def test_one_more_takes_its_share_from_all_alike_and_nothing_else_moves():
    before, after = of_ten(), homes(hashing(backends(range(9001, 9012))))
    moved = [key for key in KEYS if before[key] != after[key]]
    assert 0.06 < len(moved) / len(KEYS) < 0.12
    assert {after[key] for key in moved} == {"10.0.0.1:9011"}
    assert len({before[key] for key in moved}) == 10


@pytest.mark.parametrize("how", ["removed", "failed", "tried"])
def test_one_less_moves_its_own_keys_only_and_to_all_others(how):
    ten = backends(range(9001, 9011))
    gone, rest = ten[3], [*ten[:3], *ten[4:]]
    if how == "removed":
        after = homes(hashing(rest))
    elif how == "failed":
        after = homes(hashing(ten, candidates=rest))
    else:
        policy = hashing(ten)
        after = {key: policy.pick(key, (gone,)).label for key in KEYS}
    moved = {key for key in KEYS if of_ten()[key] != after[key]}
    assert moved == {key for key in KEYS if of_ten()[key] == gone.label}
    assert len({after[key] for key in moved}) == 9


def test_whoever_comes_back_has_its_keys_again():
    ten = backends(range(9001, 9011))
    policy = hashing(ten, candidates=ten[:2])
    assert homes(policy) != of_ten()
    policy.use(ten)
    assert homes(policy) == of_ten()


def test_the_order_in_the_file_is_of_no_matter():
    ports = [9007, 9001, 9010, 9002, 9009, 9003, 9008, 9004, 9006, 9005]
    assert homes(hashing(backends(ports))) == of_ten()


@settings(max_examples=5)
@given(st.lists(st.sampled_from([1, 2, 3, 7, 500, 65535]), min_size=2, max_size=5))
def test_shares_are_by_weight(weights):
    among = backends(range(9001, 9001 + len(weights)), weights)
    found = Counter(homes(hashing(among)).values())
    for target in among:
        share = 10_000 * target.weight / sum(weights)
        assert abs(found[target.label] - share) < 5 * share**0.5 + 0.02 * share + 5


def test_a_heavier_weight_draws_keys_and_moves_no_other():
    ports = range(9001, 9011)
    light = homes(hashing(backends(ports, [2] * 9 + [3])))
    heavy = homes(hashing(backends(ports, [2] * 9 + [5])))
    moved = [key for key in KEYS if light[key] != heavy[key]]
    assert moved
    assert {heavy[key] for key in moved} == {"10.0.0.1:9010"}


def test_equal_weights_are_as_good_as_none():
    assert homes(hashing(backends(range(9001, 9011), [7] * 10))) == of_ten()


# --- agreement --------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from gateway.routing.balancing.rendezvous import Rendezvous, bucket_of
for weights in ([1] * 10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 65535]):
    order = Rendezvous.of([(f"10.0.0.1:{9001 + i}", weight) for i, weight in enumerate(weights)])
    print(*(place for i in range(10_000) for place in order.order(bucket_of(f"203.0.{i >> 8}.{i & 255}".encode()))[:2]))
"""


def said_by(python, **environ):
    done = subprocess.run(
        [python, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def works(python):
    path = shutil.which(python)
    return path is not None and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


def test_processes_builds_and_versions_agree():
    ours = said_by(sys.executable, PYTHONHASHSEED="1", GATEWAY_RELAY="pure")
    lines = [[int(place) for place in line.split()] for line in ours.splitlines()]
    order = Rendezvous.of([(f"10.0.0.1:{9001 + i}", 1) for i in range(10)])
    assert lines[0] == [place for key in KEYS for place in order.order(bucket_of(key))[:2]]
    assert [order.labels[place] for place in lines[0][::2]] == list(of_ten().values())
    for other in filter(works, ("python3.11", "python3.12", "python3.13", "python3.14")):
        assert said_by(other, PYTHONHASHSEED="2") == ours, other


def test_the_choice_never_changes_from_release_to_release():
    """If this fails, an upgrade moves every client of every gateway: keep the old order."""
    assert "".join(of_ten()[key][-1] for key in KEYS[:40]) == GOLDEN
    weighted = hashing(backends(range(9001, 9006), [1, 2, 3, 4, 65535]))
    assert "".join(weighted.pick(key, (weighted.pick(key),)).label[-1] for key in KEYS[:40]) == GOLDEN_WEIGHTED


GOLDEN = "9633394368099024999522863195874351543431"
GOLDEN_WEIGHTED = "3433314312424224244422343142314341243433"


# --- bounded loads ----------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=6),
    st.sampled_from([1.1, 1.5, 2.0]),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_no_backend_gets_more_than_its_bound(weights, bound, rooms):
    standing = FakeStanding()
    policy = hashing(targets(*weights), standing, bound)
    for i in range(600):
        target = policy.pick(b"room %d" % rooms[i % len(rooms)])
        standing.loads[target.number] += 1
        total = sum(standing.loads.values())
        share = total * target.weight / sum(weights)
        assert standing.loads[target.number] <= bound * share + SPARE + 1
    assert sum(standing.loads.values()) == 600


def test_without_a_bound_a_key_stays_together():
    standing = FakeStanding()
    policy = hashing(targets(1, 1), standing)
    for _ in range(500):
        standing.loads[policy.pick(b"room").number] += 1
    assert sorted(standing.loads.values()) == [500]


def test_what_overflows_goes_to_the_next_choice_of_the_key():
    standing = FakeStanding()
    ten = backends(range(9001, 9011))
    policy = hashing(ten, standing, 2.0)
    first = policy.pick(b"room")
    second = policy.pick(b"room", (first,))
    standing.loads[first.number] = 1000
    assert policy.pick(b"room") is second
    others = [key for key in KEYS[:500] if of_ten()[key] != first.label]
    assert {key: policy.pick(key).label for key in others} == {key: of_ten()[key] for key in others}
    standing.loads[first.number] = 0
    assert policy.pick(b"room") is first


def test_keys_that_are_spread_are_never_moved_by_the_bound():
    standing = FakeStanding()
    policy = hashing(backends(range(9001, 9011)), standing, 1.25)
    for key in KEYS[:4000]:
        target = policy.pick(key)
        assert target.label == of_ten()[key]
        standing.loads[target.number] += 1


# --- the rest ---------------------------------------------------------------------------------------------------------


@given(WEIGHTS, st.data())
def test_what_was_tried_is_left_out(weights, data):
    check_tried(hashing, weights, data)


def test_none_and_many():
    assert hashing([]).pick(b"key") is None
    fifty = backends(range(9001, 9051))
    policy = hashing(fifty, candidates=fifty[-1:])
    assert homes(policy, KEYS[:50]) == dict.fromkeys(KEYS[:50], fifty[-1].label)
    assert policy.home(bucket_of(KEYS[0])) is fifty[-1]
    assert policy.pick(None) is fifty[-1]


def test_text_and_bytes_are_the_same_key():
    policy = hashing(backends(range(9001, 9011)))
    assert [policy.pick(key.decode()).label for key in KEYS[:50]] == [policy.pick(key).label for key in KEYS[:50]]
    assert [policy.home(bucket_of(key)).label for key in KEYS[:50]] == [policy.pick(key).label for key in KEYS[:50]]
