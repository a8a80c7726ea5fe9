"""Which connection to a backend is used again, and which never is."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from gateway.config.address import Address
from gateway.edge.pool import MAX_AGE_NS, RECENTLY_NS, BackendConnection, Pool
from gateway.edge.ways import Way
from gateway.edge.wire.plain import PlainWire
from gateway.routing.balancing import Target
from gateway.tunnels.relay.poller import Poller
from gateway.tunnels.table.table import Table

NS = 1_000_000_000
IDLE = 15 * NS
ONE, TWO = (
    Target(number=n, upstream="web", address=Address("127.0.0.1", 9000 + n), weight=1, label=f"127.0.0.1:{9000 + n}")
    for n in (1, 2)
)


class Timers:
    """A loop's timers, that go off when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[object] = []

    def call_later(self, seconds: float, call: object) -> Timers:
        self.waiting.append(call)
        return self

    def cancel(self) -> None:
        self.waiting.clear()

    def go_off(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()  # type: ignore[operator]  # a callable, or nothing would have been put in


class Rig:
    """A pool, its poller, and the far ends of connections."""

    def __init__(self) -> None:
        self.table = Table.create(1, 8)
        self.poller = Poller(self.table, 512)
        self.timers = Timers()
        self.idle: Counter[int] = Counter()
        self.now = 1000 * NS
        self.pool = Pool(self.poller, self.timers, self._count, lambda: self.now)  # type: ignore[arg-type]  # its timers
        self.far: dict[BackendConnection, socket.socket] = {}

    def _count(self, backend: int, delta: int) -> None:
        self.idle[backend] += delta

    def connection(self, target: Target = ONE) -> BackendConnection:
        """One that has just served a request."""
        near, far = socket.socketpair()
        near.setblocking(False)
        made = BackendConnection(
            self.pool, near.detach(), Way(PlainWire(self.poller.kernel)), target, target.label, self.now
        )
        self.poller.read(made.fd, lambda data: None)
        self.far[made] = far
        return made

    def put(self, target: Target = ONE, size: int = 64, idle_ns: int = IDLE) -> BackendConnection:
        made = self.connection(target)
        self.pool.put(made, self.now, idle_ns, size)
        return made

    def take(self, target: Target = ONE, repeatable: bool = True) -> BackendConnection | None:
        return self.pool.take(target, self.now, repeatable)

    def ended(self, connection: BackendConnection) -> bool:
        """Whether its far end sees it closed."""
        self.poller.select(0)
        self.far[connection].settimeout(0)
        try:
            return self.far[connection].recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:  # with bytes unread
            return True

    def close(self) -> None:
        self.pool.close_all()
        self.poller.select(0)
        for far in self.far.values():
            far.close()
        self.poller.close()
        os.close(self.table.fd)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()
    for connection in made.far:
        if connection.fd >= 0:  # in the hands of a request
            os.close(connection.fd)


def test_the_latest_is_used_first_and_each_by_one_request(rig: Rig) -> None:
    first, second = rig.put(), rig.put()
    assert rig.idle == {1: 2}
    assert rig.take(TWO) is None
    assert [rig.take(), rig.take(), rig.take()] == [second, first, None]
    assert rig.idle == {1: 0}


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON", b"x", None])
@pytest.mark.parametrize("noticed", [True, False])
def test_one_that_says_anything_while_idle_is_closed(rig: Rig, said: bytes | None, noticed: bool) -> None:
    """Whether the poller has reported that, or it only lies in the socket when the connection is taken."""
    connection = rig.put()
    if said is None:
        rig.far[connection].shutdown(socket.SHUT_WR)
    else:
        rig.far[connection].send(said)
    if noticed:
        rig.poller.select(0)
        assert rig.idle == {1: 0}
    assert rig.take() is None
    assert rig.idle == {1: 0}
    assert rig.ended(connection)


def test_what_comes_in_the_turn_in_which_it_is_taken(rig: Rig) -> None:
    """Another connection's callback takes it, while the poller has received what came on it."""
    other, mine = rig.connection(), rig.put()
    taken: list[object] = []
    for connection in (other, mine):
        rig.far[connection].send(b"x")
    rig.poller.read_on(other.fd, lambda data: taken.append(rig.take()))
    rig.poller.select(0)
    assert taken == [None]


def test_one_that_has_expired(rig: Rig) -> None:
    connection = rig.put()
    rig.now += IDLE - 1
    rig.timers.go_off()
    assert rig.idle == {1: 1}
    rig.now += 1
    assert rig.take() is None
    assert rig.ended(connection)


def test_those_that_expire_unused_are_closed(rig: Rig) -> None:
    connection = rig.put()
    rig.now += IDLE
    rig.timers.go_off()
    assert rig.idle == {1: 0}
    assert rig.ended(connection)
    assert not rig.timers.waiting


def test_what_may_not_be_repeated_takes_only_one_that_was_used_just_now(rig: Rig) -> None:
    connection = rig.put()
    rig.now += NS + 1
    assert rig.take(repeatable=False) is None
    fresh = rig.put()
    assert rig.take(repeatable=False) is fresh
    assert rig.take(repeatable=False) is None
    assert rig.take() is connection


def test_size_and_age_are_bounded(rig: Rig) -> None:
    first, second, third = (rig.put(size=2) for _ in range(3))
    assert rig.ended(first)
    assert [rig.take(), rig.take(), rig.take()] == [third, second, None]
    old = rig.connection()
    rig.now += MAX_AGE_NS + 1
    rig.pool.put(old, rig.now, IDLE, 2)
    assert rig.take() is None
    assert rig.ended(old)
    unwanted = rig.put(size=0)
    assert rig.ended(unwanted)


def test_one_that_is_held_serves_its_client_alone(rig: Rig) -> None:
    connection = rig.connection()
    connection.is_authenticated = True
    assert rig.pool.hold(connection, rig.now, IDLE)
    assert rig.take() is None
    rig.now += 100 * IDLE
    rig.timers.go_off()
    assert rig.pool.claim(connection, rig.now, False)
    assert rig.pool.hold(connection, rig.now, IDLE)
    rig.far[connection].send(b"unasked")
    assert not rig.pool.claim(connection, rig.now, False)
    assert not rig.pool.claim(connection, rig.now, False)
    assert rig.ended(connection)


def test_one_that_names_a_client_expires_like_any_other(rig: Rig) -> None:
    connection = rig.connection()
    connection.proxy_protocol = "v2"
    assert rig.pool.hold(connection, rig.now, IDLE)
    assert rig.take() is None
    rig.now += IDLE - 1
    rig.timers.go_off()
    assert rig.pool.claim(connection, rig.now, True)
    assert rig.pool.hold(connection, rig.now, IDLE)
    rig.timers.go_off()
    rig.now += IDLE
    assert rig.far[connection].fileno() >= 0
    rig.timers.go_off()
    assert connection.fd < 0
    assert rig.ended(connection)
    assert not rig.timers.waiting


def test_one_that_names_a_client_is_not_used_late(rig: Rig) -> None:
    """Before the sweep comes, and for a request that may not be repeated."""
    expired, used_long_ago, fresh = (rig.connection() for _ in range(3))
    for connection in (expired, used_long_ago, fresh):
        assert rig.pool.hold(connection, rig.now, RECENTLY_NS + 1 if connection is expired else IDLE)
    assert rig.pool.claim(fresh, rig.now + RECENTLY_NS, False)
    assert not rig.pool.claim(used_long_ago, rig.now + RECENTLY_NS + 1, False)
    assert not rig.pool.claim(expired, rig.now + RECENTLY_NS + 1, True)
    assert rig.ended(used_long_ago)
    assert rig.ended(expired)
    rig.pool.discard(fresh)


@pytest.mark.parametrize(("age_ns", "idle_ns"), [(0, 0), (MAX_AGE_NS + 1, IDLE)])
def test_one_that_names_a_client_is_not_held(rig: Rig, age_ns: int, idle_ns: int) -> None:
    """Where connections are not kept, and when it is old."""
    connection = rig.connection()
    assert not rig.pool.hold(connection, rig.now + age_ns, idle_ns)
    assert rig.ended(connection)


def test_those_that_lead_nowhere_any_more_are_closed(rig: Rig) -> None:
    gone, stays = rig.put(ONE), rig.put(TWO)
    rig.pool.keep_only(lambda connection: connection.target is TWO)
    assert rig.ended(gone)
    assert not rig.ended(stays)
    assert rig.idle == {1: 0, 2: 1}
