"""Clients are divided among upstreams by their addresses, each time alike."""

from collections import Counter
from ipaddress import ip_address

from gateway.routing.shares import Shares

from .tables import routes_of

UPSTREAMS = {name: {"backends": [f"127.0.0.1:{port}"]} for port, name in enumerate(("old", "new", "next"), 9001)}
MADE = routes_of({"upstream": "old"}, upstreams=UPSTREAMS).upstreams
CLIENTS = [ip_address(f"10.{number >> 8}.{number & 255}.7") for number in range(10_000)]


def divided(**weights):
    shares = Shares([(MADE[name], weight) for name, weight in weights.items()])
    return {client: shares.of(client).name for client in CLIENTS}


def test_shares_are_as_large_as_their_weights():
    counts = Counter(divided(old=9, new=1).values())
    assert abs(counts["new"] - 1000) < 120
    counts = Counter(divided(old=1, new=1, next=2).values())
    assert abs(counts["next"] - 5000) < 200


def test_only_those_move_that_have_to():
    before, after = divided(old=9, new=1), divided(old=8, new=2)
    moved = [client for client in CLIENTS if before[client] != after[client]]
    assert all(after[client] == "new" for client in moved)
    assert abs(len(moved) - 1000) < 150
    assert divided(old=90, new=10) == before
    assert divided(new=1, old=9) == before
    assert set(divided(old=1, new=0).values()) == {"old"}


def test_the_hash_is_the_same_in_every_version():
    first = [str(client) for client, name in divided(old=9, new=1).items() if name == "new"][:4]
    assert first == ["10.0.4.7", "10.0.12.7", "10.0.18.7", "10.0.27.7"]


def test_what_counts_of_an_address():
    shares = Shares([(MADE["old"], 1), (MADE["new"], 1)])
    of_networks = {shares.of(ip_address(f"2001:db8:0:{number:x}::1")).name for number in range(50)}
    of_hosts = {shares.of(ip_address(f"2001:db8::{number:x}")).name for number in range(50)}
    assert (len(of_networks), len(of_hosts)) == (2, 1)
    assert shares.of(None) is shares.of(None)
