"""Which addresses are one client."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from gateway.tunnels.quotas.clients import Client

pytestmark = pytest.mark.either_build


@pytest.mark.parametrize(
    ("address", "same", "text"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("::1", "::2", "::/64"),
        ("255.255.255.255", "::ffff:ffff:ffff", "255.255.255.255"),
        ("ffff:ffff:ffff:ffff::", "ffff:ffff:ffff:ffff::1", "ffff:ffff:ffff:ffff::/64"),
    ],
)
def test_one_client(address: str, same: str, text: str) -> None:
    client = Client.of(3, ip_address(address))
    assert client == Client.of(3, ip_address(same))
    assert str(client) == text
    assert client.route == 3


@pytest.mark.parametrize(
    ("address", "other"),
    [
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8:1:2::1", "2001:db8:1:3::1"),
        ("0.0.0.1", "0:0:0:1::"),  # the same number
        ("0.0.0.0", "::"),
    ],
)
def test_different_clients(address: str, other: str) -> None:
    assert Client.of(0, ip_address(address)) != Client.of(0, ip_address(other))


def test_a_client_is_another_one_on_another_route() -> None:
    assert Client.of(0, ip_address("192.0.2.1")) != Client.of(1, ip_address("192.0.2.1"))


def test_hashes_depend_on_the_secret() -> None:
    client = Client.of(0, ip_address("192.0.2.1"))
    assert client.hashed(b"a" * 16) != client.hashed(b"b" * 16)
