"""Addresses of backends: literals at once, names from the resolver, and the latest answer while it fails."""

import asyncio
import logging
import socket

import pytest

from gateway.config import Address
from gateway.edge import names as names_module
from gateway.edge.names import Names

A, B, C = (Address("a.internal", 1), Address("b.internal", 2), Address("c.internal", 3))


class Resolver:
    """A name server of the test's own, in the place of the loop's."""

    def __init__(self):
        self.known = {}
        self.asked = []
        self.answered = asyncio.Event()

    async def getaddrinfo(self, host, port, *, type, proto):
        self.asked.append(host)
        self.answered.set()
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, type, proto, "", (ip, port, 0, 0))
            if ":" in ip
            else (socket.AF_INET, type, proto, "", (ip, port))
            for ip in self.known[host]
        ]


@pytest.fixture
async def resolver(monkeypatch):
    made = Resolver()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", made.getaddrinfo, raising=False)
    return made


@pytest.fixture
async def names():
    made = Names()
    yield made
    await made.close()
    await asyncio.sleep(0)  # the task that was cancelled ends
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (Address("192.0.2.7", 80), (socket.AF_INET, ("192.0.2.7", 80))),
        (Address("2001:db8::1", 80), (socket.AF_INET6, ("2001:db8::1", 80))),
        (Address(path="/run/chat.sock"), (socket.AF_UNIX, "/run/chat.sock")),
    ],
)
async def test_literals_need_no_resolver(names, resolver, address, found):
    await names.use([address])
    assert names.addresses(address) == [found]
    assert resolver.asked == []


async def test_a_name(names, resolver):
    resolver.known["a.internal"] = ["192.0.2.1"]
    await names.use([A])
    assert names.addresses(A) == [(socket.AF_INET, ("192.0.2.1", 1))]


async def test_addresses_of_a_name_take_turns_at_the_front(names, resolver):
    resolver.known["a.internal"] = ["192.0.2.1", "192.0.2.2", "::1"]
    await names.use([A])
    found = [names.addresses(A) for _ in range(6)]
    assert {len(order) for order in found} == {3}
    fronts = [order[0][1][0] for order in found]
    assert set(fronts[:3]) == {"192.0.2.1", "192.0.2.2", "::1"}
    assert fronts[3:] == fronts[:3]


async def test_a_name_that_does_not_resolve(names, resolver, caplog):
    resolver.known["b.internal"] = ["192.0.2.1"]
    with caplog.at_level(logging.WARNING):
        await names.use([A, B])
    assert names.addresses(A) == []
    assert len(names.addresses(B)) == 1
    assert "a.internal:1: its name does not resolve" in caplog.text


def test_what_was_never_asked_for():
    assert Names().addresses(A) == []


async def test_a_reload_keeps_what_it_cannot_look_up_again(names, resolver):
    resolver.known = {"a.internal": ["192.0.2.1"], "b.internal": ["192.0.2.2"]}
    await names.use([A, B])
    resolver.known = {"c.internal": ["192.0.2.3"]}
    await names.use([A, C])
    assert names.addresses(A) == [(socket.AF_INET, ("192.0.2.1", 1))]
    assert names.addresses(B) == []
    assert names.addresses(C) == [(socket.AF_INET, ("192.0.2.3", 3))]


async def asked_again(resolver):
    resolver.answered.clear()
    await asyncio.wait_for(resolver.answered.wait(), 10)
    for _ in range(3):
        await asyncio.sleep(0)  # what was answered is taken in


async def test_names_are_kept_fresh(names, resolver, monkeypatch):
    monkeypatch.setattr(names_module, "REFRESH_SECONDS", 0.001)
    resolver.known["a.internal"] = ["192.0.2.1"]
    await names.use([A])
    resolver.known["a.internal"] = ["192.0.2.9"]
    await asked_again(resolver)
    assert names.addresses(A) == [(socket.AF_INET, ("192.0.2.9", 1))]
    resolver.known.clear()
    await asked_again(resolver)
    assert names.addresses(A) == [(socket.AF_INET, ("192.0.2.9", 1))]
    await names.close()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_after_a_reload_only_what_is_used_is_looked_up(names, resolver, monkeypatch):
    monkeypatch.setattr(names_module, "REFRESH_SECONDS", 0.001)
    resolver.known = {"a.internal": ["192.0.2.1"], "b.internal": ["192.0.2.2"]}
    await names.use([A])
    await names.use([B])
    resolver.asked.clear()
    await asked_again(resolver)
    assert set(resolver.asked) == {"b.internal"}
    await names.use([Address("192.0.2.7", 80)])
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_the_systems_resolver(names):
    await names.use([Address("localhost", 80)])
    assert ("127.0.0.1", 80) in [address[:2] for _, address in names.addresses(Address("localhost", 80))]
