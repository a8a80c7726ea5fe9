"""Names of backends, looked up by a resolver of the test's own in the threads of the supervisor."""

import asyncio
import logging
import socket
import threading

import pytest

from gateway.config.address import Address
from gateway.processes import lookups, resolving
from gateway.processes.resolving import Resolving, addresses_of
from tests.support.deadline import eventually, turn

A, B, C = (Address("a.internal", 1), Address("b.internal", 2), Address("c.internal", 3))
LITERALS = [Address("192.0.2.7", 80), Address("fe80::1%eth0", 80), Address(path="/run/chat.sock")]


class Resolver:
    """A name server: what it knows, and names for which it does not answer until it is told to."""

    def __init__(self):
        self.known = {}
        self.hanging = {}
        self.asked = []

    def hang(self, *names):
        self.hanging |= {name: threading.Event() for name in names}

    def answer(self):
        for event in self.hanging.values():
            event.set()
        self.hanging = {}

    def look_up(self, name):
        self.asked.append(name)
        if (event := self.hanging.get(name)) is not None:
            event.wait()
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.known[name]


@pytest.fixture
def resolver():
    made = Resolver()
    yield made
    made.answer()


@pytest.fixture
async def make(resolver):
    """Makes them; what they told is in ``told``."""
    made = []

    def make_one(known=None):
        told = []
        one = Resolving(told.append, known, resolver.look_up)
        one.told = told
        made.append(one)
        return one

    yield make_one
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name in ("REFRESH_SECONDS", "RETRY_SECONDS", "PATIENCE_SECONDS"):
        monkeypatch.setattr(lookups, name, 0.01)


async def until(true):
    await eventually(true, "a thread to do it")


async def test_literals_need_no_name_server(make, resolver):
    one = make()
    one.use(LITERALS)
    await one.first_answers(10)
    assert resolver.asked == []
    assert one.known() == {}


async def test_a_name(make, resolver):
    resolver.known = {"a.internal": ("192.0.2.1", "2001:db8::1")}
    one = make()
    one.use([A, *LITERALS])
    await one.first_answers(10)
    assert one.told == [one.known()] == [resolver.known]


async def test_one_lookup_for_all_ports_of_a_host(make, resolver):
    one = make()
    one.use([A, Address("a.internal", 2)])
    await one.first_answers(10)
    assert resolver.asked == ["a.internal"]


async def test_a_name_that_does_not_resolve(make, resolver, caplog):
    resolver.known = {"b.internal": ("192.0.2.1",)}
    one = make()
    one.use([A, B])
    await one.first_answers(10)
    assert one.known() == resolver.known
    assert "names do not resolve: a.internal (Name or service not known); requests for them get 502" in caplog.text


async def test_a_failure_is_logged_once_and_its_end_too(make, resolver, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    resolver.known = {"a.internal": ("192.0.2.1",)}
    one = make()
    one.use([A])
    await one.first_answers(10)
    resolver.known = {}
    await until(lambda: len(resolver.asked) >= 5)
    assert caplog.text.count("not resolve") == 1
    assert "a.internal (Name or service not known); their last addresses stay in use" in caplog.text
    assert one.known() == {"a.internal": ("192.0.2.1",)}
    resolver.known = {"a.internal": ("192.0.2.2",)}
    await until(lambda: len(one.told) == 2)
    assert "backend name a.internal resolves again: 192.0.2.2" in caplog.text
    monkeypatch.setattr(resolving, "LOG_AGAIN_SECONDS", 0.0)
    resolver.known = {}
    await until(lambda: caplog.text.count("not resolve") >= 3)


async def test_names_are_kept_fresh(make, resolver):
    resolver.known = {"a.internal": ("192.0.2.1",)}
    one = make()
    one.use([A])
    await until(lambda: one.told)
    resolver.known = {"a.internal": ("192.0.2.9",)}
    await until(lambda: len(one.told) == 2)
    assert one.told[-1] == resolver.known


async def test_after_a_reload_only_what_is_used_is_looked_up(make, resolver):
    resolver.known = {"a.internal": ("192.0.2.1",), "b.internal": ("192.0.2.2",)}
    one = make()
    one.use([A, B])
    await one.first_answers(10)
    resolver.known = {}
    one.use([B, C])
    assert one.told[-1] == one.known() == {"b.internal": ("192.0.2.2",)}
    await one.first_answers(10)
    await until(lambda: not any("lookup" in thread.name for thread in threading.enumerate()))
    resolver.asked.clear()
    await until(lambda: len(resolver.asked) >= 4)
    assert set(resolver.asked) == {"b.internal", "c.internal"}
    assert one.known() == {"b.internal": ("192.0.2.2",)}


async def test_what_was_known_before_this_process(make, resolver):
    resolver.hang("a.internal", "b.internal")
    one = make({"a.internal": ["192.0.2.1"], "z.internal": ["192.0.2.2"]})
    one.use([A])
    assert one.told == [one.known()] == [{"a.internal": ("192.0.2.1",)}]
    await one.first_answers(10)  # there is one
    resolver.known = {"a.internal": ("192.0.2.3",)}
    resolver.answer()
    await until(lambda: len(one.told) == 2)
    assert one.known() == resolver.known


async def test_who_waits_for_answers_waits_no_longer_than_they_say(make, resolver):
    resolver.hang("a.internal")
    resolver.known = {"b.internal": ("192.0.2.2",)}
    one = make()
    one.use([A, B])
    async with asyncio.timeout(10):
        await one.first_answers(0.1)
    assert one.known() == {"b.internal": ("192.0.2.2",)}


async def test_names_that_hang_keep_no_others_waiting(make, resolver, caplog):
    """More than may be under way at once, all of them begun before the others; their answers count when they come."""
    hanging = [Address(f"a{n:03}.internal", 1) for n in range(3 * lookups.AT_ONCE)]
    resolver.hang(*(address.host for address in hanging))
    resolver.known = {"b.internal": ("192.0.2.2",)} | {address.host: ("192.0.2.3",) for address in hanging}
    one = make()
    one.use([*hanging, B])
    await until(lambda: one.known() == {"b.internal": ("192.0.2.2",)})
    assert "a009.internal and 22 more (no answer yet after 2 s); requests for them get 502" in caplog.text
    resolver.answer()
    await until(lambda: one.known() == resolver.known)


async def test_a_resolver_that_breaks(make, resolver, caplog, monkeypatch):
    monkeypatch.setattr(resolver, "look_up", lambda name: 1 // 0)
    one = make()
    one.use([A])
    await one.first_answers(10)
    assert "do not resolve: a.internal (integer division or modulo by zero)" in caplog.text


async def test_no_room_for_threads(make, resolver, caplog, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    resolver.known = {"a.internal": ("192.0.2.1",)}
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        one = make()
        one.use([A])
        await one.first_answers(10)
    assert "do not resolve: a.internal (can't start new thread)" in caplog.text
    await until(lambda: one.told == [resolver.known])


async def test_nothing_is_told_after_the_end(make, resolver):
    resolver.hang("a.internal")
    resolver.known = {"a.internal": ("192.0.2.1",)}
    one = make()
    one.use([A])
    await until(lambda: resolver.asked)
    one.close()
    resolver.answer()
    await until(lambda: not any("lookup" in thread.name for thread in threading.enumerate()))
    await turn()
    assert one.told == []


def test_the_systems_resolver():
    assert "127.0.0.1" in addresses_of("localhost")
    with pytest.raises(OSError, match=r"not known|No address|[Tt]emporary"):
        addresses_of("nobody.invalid")


def test_addresses_of_one_link_keep_their_zone(monkeypatch):
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 3)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    assert addresses_of("a.internal") == ("fe80::1%3", "2001:db8::1", "192.0.2.1")
