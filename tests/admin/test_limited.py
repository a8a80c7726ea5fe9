"""Clients that were limited, as the admin API shows them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from gateway.admin import api
from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.layout import HANDSHAKES, RECENT, TUNNELS
from gateway.tunnels.quotas.quotas import Quotas

from .gateways import FakeGateway

pytestmark = pytest.mark.either_build


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    made = FakeGateway()
    with closing(made.table), closing(Quotas.create(made.table.slots, 1000)) as quotas:
        made.state.quotas = quotas
        yield made


def limit(gateway: FakeGateway, slot: int, address: str, limit: int, route: int = 0) -> None:
    assert gateway.state.quotas is not None
    gateway.state.quotas.share(slot).note_limited(Client.of(route, ip_address(address)), limit)


def test_nobody_was_limited(gateway: FakeGateway) -> None:
    assert api.limited(gateway.state) == {"limited": []}
    gateway.state.quotas = None
    assert api.status(gateway.state)["limited"] == []


def test_who_was_limited_where_and_how_often(gateway: FakeGateway) -> None:
    limit(gateway, 0, "192.0.2.1", HANDSHAKES)
    limit(gateway, 1, "2001:db8:1:2::9", TUNNELS, route=1)
    limit(gateway, 1, "192.0.2.1", HANDSHAKES)
    found = api.status(gateway.state)["limited"]
    assert api.limited(gateway.state) == {"limited": found}
    assert isinstance(found, list)
    first, second = found
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert abs(time.time() - first.pop("last")) < 60
    assert first == {"address": "192.0.2.1", "route": "chat", "limit": "handshakes_per_second", "times": 2}
    assert {**second, "last": 0} == {
        "address": "2001:db8:1:2::/64",
        "route": "feed",
        "limit": "tunnels_per_client",
        "times": 1,
        "last": 0,
    }


def test_there_are_never_more_than_some(gateway: FakeGateway) -> None:
    for number in range(40):
        limit(gateway, number % 2, f"192.0.2.{number}", TUNNELS)
    found = api.limited(gateway.state)["limited"]
    assert isinstance(found, list)
    assert [each["address"] for each in found if isinstance(each, dict)] == [
        f"192.0.2.{number}" for number in range(39, 39 - RECENT, -1)
    ]


def test_what_makes_no_sense_is_left_out(gateway: FakeGateway) -> None:
    """As a process that was killed may have left it."""
    limit(gateway, 0, "192.0.2.1", TUNNELS, route=700)
    limit(gateway, 0, "192.0.2.2", 77)
    assert api.limited(gateway.state) == {"limited": []}
