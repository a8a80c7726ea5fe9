"""Where backends can be dialled: literals as they are, names as the supervisor has resolved them."""

import socket

import pytest

from gateway.config.address import Address, parse_backend
from gateway.edge.addresses import Addresses

A, B = Address("a.internal", 1), Address("b.internal", 2)


@pytest.fixture
def addresses():
    return Addresses()


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.7:80", (socket.AF_INET, ("192.0.2.7", 80))),
        ("[2001:db8::1]:80", (socket.AF_INET6, ("2001:db8::1", 80))),
        ("[fe80::1%lo]:80", (socket.AF_INET6, ("fe80::1", 80, 0, socket.if_nametoindex("lo")))),
        ("[fe80::1%7]:80", (socket.AF_INET6, ("fe80::1", 80, 0, 7))),
        ("unix:/run/chat.sock", (socket.AF_UNIX, "/run/chat.sock")),
    ],
)
def test_literals_need_no_answer(addresses, address, found):
    assert addresses.of(parse_backend(address)) == [found]


def test_an_interface_that_there_is_not(addresses, caplog):
    assert addresses.of(parse_backend("[fe80::1%nowhere]:80")) == []
    assert "backend [fe80::1%nowhere]:80: this machine has no such network interface" in caplog.text


def test_an_interface_that_is_made_anew_has_another_number(addresses, monkeypatch):
    backend = parse_backend("[fe80::1%eth7]:80")
    for number in (3, 9):
        monkeypatch.setattr(socket, "if_nametoindex", lambda name, number=number: number)
        assert addresses.of(backend) == [(socket.AF_INET6, ("fe80::1", 80, 0, number))]


def test_an_interface_that_there_is_can_be_dialled(addresses):
    """As far as the kernel: nobody is at this address of the loopback interface."""
    ((family, to),) = addresses.of(parse_backend("[fe80::1%lo]:9"))
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        assert sock.connect_ex(to) not in (0, 22)  # EINVAL is what an address without its zone gets


def test_a_name(addresses):
    assert addresses.of(A) == []
    addresses.use({"a.internal": ("192.0.2.1",)})
    assert addresses.of(A) == [(socket.AF_INET, ("192.0.2.1", 1))]
    assert addresses.of(Address("a.internal", 9)) == [(socket.AF_INET, ("192.0.2.1", 9))]
    assert addresses.of(B) == []
    addresses.use({"a.internal": ("fe80::1%2",)})
    assert addresses.of(A) == [(socket.AF_INET6, ("fe80::1", 1, 0, 2))]
    addresses.use({})
    assert addresses.of(A) == []


def test_addresses_of_a_name_take_turns_at_the_front(addresses):
    addresses.use({"a.internal": ("192.0.2.1", "192.0.2.2", "::1")})
    found = [addresses.of(A) for _ in range(6)]
    assert {len(order) for order in found} == {3}
    fronts = [order[0][1][0] for order in found]
    assert fronts == ["192.0.2.1", "192.0.2.2", "::1"] * 2


def test_each_name_has_turns_of_its_own(addresses):
    """With one counter for all, two names that are used in turn would always get the same address."""
    addresses.use({"a.internal": ("192.0.2.1", "192.0.2.2"), "b.internal": ("192.0.2.3", "192.0.2.4")})
    fronts = [[addresses.of(name)[0][1][0] for name in (A, B)] for _ in range(4)]
    assert fronts == [["192.0.2.1", "192.0.2.3"], ["192.0.2.2", "192.0.2.4"]] * 2
