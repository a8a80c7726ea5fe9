"""The descriptor store: what is kept, closed, inherited; sockets that are full, and descriptors that run out."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from array import array
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from errno import ENOBUFS, ETOOMANYREFS

import pytest

from gateway.observe.seldom import Seldom
from gateway.processes import fdstore
from gateway.processes.fdstore import OPENED_AT_ONCE, Deposits, DescriptorStore, _receive, store_pair
from tests.support.deadline import eventually, quiet_for, turn, within

ENOUGH = 1 << 30


def open_pipes() -> int:
    """Descriptors of this process that are pipes: the tests' connections."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
        except FileNotFoundError:
            continue  # the directory's own
    return found


def identity(fd: int) -> int:
    """What tells one pipe from another, whatever descriptor it has."""
    return os.fstat(fd).st_ino


class Connection(tuple[int, int]):
    """Stands for a tunnel's two connections: the ends of a pipe."""

    __slots__ = ()

    def __new__(cls) -> Connection:
        return super().__new__(cls, os.pipe())

    def close(self) -> None:
        for fd in self:
            os.close(fd)


class Bench:
    """A store and a worker's end, connected."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.store = DescriptorStore(self.loop, ENOUGH)
        self.connect()
        self.before = open_pipes()

    def connect(self) -> None:
        """Have a new worker."""
        ours, self.theirs = store_pair()
        self.store.serve(ours)
        self.deposits = Deposits(self.theirs, self.loop)

    async def inherited(self) -> dict[int, tuple[int, int]]:
        """What the worker finds in store, which it asks in a thread of its own as it waits for this one."""
        return await asyncio.to_thread(self.deposits.inherited)

    async def stored(self, count: int) -> None:
        await eventually(lambda: len(self.store) == count or None, f"{count} tunnels in store")

    def die(self) -> None:
        """The worker is killed."""
        self.theirs.close()
        self.store.detach()

    def keep(self, tunnels: range) -> None:
        """Open tunnels and let the worker's own descriptors of them go as soon as they are sent."""
        for tunnel in tunnels:
            self.deposits.keep(tunnel, *self.connections[tunnel])

    def open(self, tunnels: range) -> None:
        self.connections = {tunnel: Connection() for tunnel in tunnels}
        self.keep(tunnels)

    def close(self) -> None:
        self.store.close()
        self.deposits.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    assert await made.inherited() == {}
    yield made
    made.close()


async def test_what_is_kept_outlives_the_worker(bench: Bench) -> None:
    connection = Connection()
    identities = [identity(fd) for fd in connection]
    bench.deposits.keep(7, *connection)
    await bench.stored(1)
    connection.close()
    bench.die()
    bench.connect()
    inherited = await bench.inherited()
    assert list(inherited) == [7]
    assert [identity(fd) for fd in inherited[7]] == identities
    assert all(not os.get_inheritable(fd) for fd in inherited[7])
    assert len(bench.store) == 1, "it is kept for the next successor"
    for fd in inherited[7]:
        os.close(fd)
    bench.deposits.forget(7)
    await bench.stored(0)
    assert open_pipes() == bench.before


async def test_an_end_goes_behind_its_opening(bench: Bench) -> None:
    connection = Connection()
    bench.deposits.keep(1, *connection)
    await bench.stored(1)
    bench.deposits.forget(1)
    bench.deposits.keep(2, *connection)
    bench.deposits.forget(2)
    bench.deposits.keep(3, *connection)
    connection2 = Connection()
    bench.deposits.keep(4, *connection2)
    await bench.stored(2)
    connection.close()
    connection2.close()
    assert open_pipes() == bench.before + 4
    bench.die()
    bench.connect()
    inherited = await bench.inherited()
    assert sorted(inherited) == [3, 4]
    for connections in inherited.values():
        for fd in connections:
            os.close(fd)


async def test_a_tunnel_that_ended_before_it_was_told_of_costs_nothing(bench: Bench) -> None:
    bench.store.detach()
    ours, theirs = store_pair()
    deposits = Deposits(theirs, bench.loop)
    connection = Connection()
    deposits.keep(1, *connection)
    deposits.forget(1)
    deposits.close()
    assert ours.recv(1000) == b""
    ours.close()
    connection.close()


@pytest.mark.parametrize("count", [1, OPENED_AT_ONCE - 1, OPENED_AT_ONCE, OPENED_AT_ONCE + 1, 5 * OPENED_AT_ONCE])
async def test_any_number_at_once(bench: Bench, count: int) -> None:
    bench.open(range(count))
    await bench.stored(count)
    identities = {tunnel: [identity(fd) for fd in connection] for tunnel, connection in bench.connections.items()}
    bench.die()
    bench.connect()
    inherited = await bench.inherited()
    assert {tunnel: [identity(fd) for fd in connection] for tunnel, connection in inherited.items()} == identities
    for tunnel, connections in inherited.items():
        bench.connections[tunnel].close()
        for fd in connections:
            os.close(fd)
        bench.deposits.forget(tunnel)
    await bench.stored(0)
    assert open_pipes() == bench.before


async def test_what_ends_at_once_is_never_sent(bench: Bench) -> None:
    bench.open(range(2))
    bench.deposits._flush_due()
    bench.deposits.forget(0)
    bench.deposits._flush_due()
    received = _receive(bench.store._sock)
    assert received is not None
    assert list(received.ended) == []
    assert [tunnel for tunnel, _ in received.opened] == [1]
    for _, connections in received.opened:
        for fd in connections:
            os.close(fd)
    for connection in bench.connections.values():
        connection.close()


async def test_a_supervisor_that_does_not_listen_for_a_while(bench: Bench) -> None:
    """The socket fills up; nothing is lost, and ends overtake nothing."""
    sock = bench.store._sock
    assert sock is not None
    bench.loop.remove_reader(sock)
    connection = Connection()
    for tunnel in range(30_000):
        bench.deposits.keep(tunnel, *connection)
        if tunnel >= 100:
            bench.deposits.forget(tunnel - 100)
        if tunnel % 1000 == 0:
            bench.deposits._flush()
    assert len(bench.store) == 0
    bench.loop.add_reader(sock, bench.store._read, sock)
    await eventually(lambda: sorted(bench.store._kept) == list(range(29_900, 30_000)), "the last 100 in store")
    connection.close()
    assert open_pipes() == bench.before + 200


async def test_a_worker_that_dies_has_said_what_it_said(bench: Bench) -> None:
    """What is still in the socket counts."""
    bench.open(range(1000))
    bench.deposits._flush()
    assert len(bench.store) < 1000
    bench.die()
    assert len(bench.store) == 1000
    for connection in bench.connections.values():
        connection.close()


async def test_a_worker_that_dies_before_it_has_taken_over(bench: Bench) -> None:
    bench.open(range(1000))
    await bench.stored(1000)
    for connection in bench.connections.values():
        connection.close()
    for _ in range(3):
        bench.die()
        bench.connect()
        await turn()  # some of the hand-over is in the socket
        await turn()
    connection = Connection()
    bench.deposits.keep(1000, *connection)
    bench.deposits._flush()
    bench.die()  # with the hand-over unread, which is an error at the other end, and its last words behind that
    connection.close()
    assert len(bench.store) == 1001
    assert open_pipes() == bench.before + 2002
    bench.connect()
    inherited = await bench.inherited()
    assert sorted(inherited) == list(range(1001))
    for connections in inherited.values():
        for fd in connections:
            os.close(fd)


async def test_closing_the_store_closes_all(bench: Bench) -> None:
    bench.open(range(300))
    await bench.stored(300)
    for connection in bench.connections.values():
        connection.close()
    bench.store.close()
    assert len(bench.store) == 0
    assert open_pipes() == bench.before


async def test_the_supervisor_is_gone(bench: Bench) -> None:
    bench.store.close()
    connection = Connection()
    for tunnel in range(1000):
        bench.deposits.keep(tunnel, *connection)
        bench.deposits.forget(tunnel // 2)
    bench.deposits._flush()
    assert not bench.deposits._opened
    assert bench.deposits._timer is None
    connection.close()
    deposits = Deposits(bench.theirs.dup(), bench.loop)
    with pytest.raises(ConnectionError):
        deposits.inherited()
    deposits.close()


# --- shortage ---------------------------------------------------------------------------------------------------------


class Refusing(socket.socket):
    """A socket that takes nothing for a while."""

    errors: list[int]

    def sendmsg(self, *arguments: object) -> int:  # type: ignore[override]
        if self.errors:
            error = self.errors.pop()
            raise OSError(error, os.strerror(error))
        return super().sendmsg(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ETOOMANYREFS, ENOBUFS])
async def test_what_the_kernel_does_not_take_now_is_sent_later(bench: Bench, error: int) -> None:
    bench.die()
    ours, theirs = store_pair()
    refusing = Refusing(fileno=theirs.detach())
    refusing.setblocking(False)
    refusing.errors = [error] * 3
    bench.store.serve(ours)
    bench.deposits = Deposits(refusing, bench.loop)
    connection = Connection()
    bench.deposits.keep(1, *connection)
    bench.deposits._flush()
    assert refusing.errors
    await bench.stored(1)
    connection.close()


@pytest.mark.parametrize("error", [ETOOMANYREFS, ENOBUFS])
async def test_a_hand_over_that_the_kernel_does_not_take_now(bench: Bench, error: int) -> None:
    bench.open(range(1000))
    await bench.stored(1000)
    bench.die()
    ours, theirs = store_pair()
    refusing = Refusing(fileno=ours.detach())
    refusing.setblocking(False)
    refusing.errors = [error] * 3
    bench.store.serve(refusing)
    bench.deposits = Deposits(theirs, bench.loop)
    inherited = await bench.inherited()
    assert not refusing.errors
    assert sorted(inherited) == list(range(1000))
    for connections in (*inherited.values(), *bench.connections.values()):
        for fd in connections:
            os.close(fd)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process have only so many descriptors more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {fd for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd)}  # but for the directory's own
    free = [fd for fd in range(max(taken) + count + 2) if fd not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_supervisor_without_descriptors(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Tunnels that there is no room for are not kept; those before and after are."""
    bench.open(range(100))
    with descriptors_left(41):
        bench.deposits._flush()
        await bench.stored(20)
    assert "the supervisor is short of descriptors: 80 more tunnels" in caplog.text
    assert open_pipes() == bench.before + 200 + 40
    bench.deposits.keep(100, *bench.connections[0])
    await bench.stored(21)
    for tunnel in range(101):
        bench.deposits.forget(tunnel)
    await bench.stored(0)
    for connection in bench.connections.values():
        connection.close()
    assert open_pipes() == bench.before


async def test_the_last_descriptors_are_for_other_things(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.open(range(50))
    bench.store._descriptors = max(fd for connection in bench.connections.values() for fd in connection) + 41
    await bench.stored(20)
    assert "the supervisor is short of descriptors: 30 more tunnels" in caplog.text
    for connection in bench.connections.values():
        connection.close()
    assert open_pipes() == bench.before + 40


async def test_a_successor_without_descriptors(bench: Bench) -> None:
    """What it has no room for it does not find; the rest is whole."""
    bench.open(range(300))
    await bench.stored(300)
    for connection in bench.connections.values():
        connection.close()
    bench.die()
    bench.connect()
    await quiet_for(0.1)  # the hand-over fits into the socket
    with descriptors_left(101):
        inherited = bench.deposits.inherited()
    assert len(inherited) == 50
    assert len({identity(fd) for connections in inherited.values() for fd in connections}) == 50
    for connections in inherited.values():
        assert identity(connections[0]) == identity(connections[1])
        for fd in connections:
            os.close(fd)


# --- one bad message, or one bad tunnel, stops no other ---------------------------------------------------------------

BAD = {
    "cut": b"\0" * 11,
    "more ends than there are": array("q", [3, 1]).tobytes(),
    "fewer than none": array("q", [-2, 1, 2]).tobytes(),
    "fewer tunnels than connections": array("q", [0]).tobytes(),
}


def send_badly(sock: socket.socket, data: bytes, connection: Connection) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", connection))])


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
@pytest.mark.parametrize("when", ["read", "part", "give_up"])
async def test_a_message_that_is_none_is_skipped(
    bench: Bench, data: bytes, when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What came with it is closed, and what comes behind it is taken in; also from a worker that is dead."""
    monkeypatch.setattr(fdstore, "_skipped", Seldom(fdstore.log.error))
    connection = Connection()
    bench.open(range(2))
    await bench.stored(2)
    send_badly(bench.theirs, data, connection)
    bench.deposits.forget(0)
    bench.deposits.keep(7, *connection)
    bench.deposits._flush()
    if when == "part":
        bench.die()
        assert sorted(tunnel for tunnel, _ in bench.store.kept()) == [1, 7]
    elif when == "give_up":
        assert [tunnel for tunnel, _ in bench.store.give_up([7])] == [7]
        assert len(bench.store) == 1
    else:
        await eventually(lambda: sorted(tunnel for tunnel, _ in bench.store.kept()) == [1, 7], "what came behind it")
    (record,) = caplog.records
    assert record.getMessage().startswith("skipped a malformed message to the descriptor store: ")
    # What stays open: the test's own ends of 0, 1 and 7, and what is in store, or was given up, of 1 and 7.
    assert open_pipes() == bench.before + 10


async def test_a_message_that_is_none_is_skipped_by_a_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdstore, "_skipped", Seldom(fdstore.log.error))
    connection = Connection()
    send_badly(bench.store._sock, BAD["cut"], connection)
    bench.store.hand_over([(7, Connection())])
    inherited = await bench.inherited()
    assert list(inherited) == [7]


class Moody:
    """A keeper that fails at one tunnel."""

    def __init__(self, bad: int) -> None:
        self.bad = bad
        self.tunnels: set[int] = set()

    def keep(self, tunnels: Iterable[tuple[int, tuple[int, int]]]) -> None:
        for tunnel, _ in tunnels:
            if tunnel == self.bad:
                raise RuntimeError("no mood")
            self.tunnels.add(tunnel)

    def forget(self, tunnel: int) -> None:
        if tunnel == self.bad:
            raise RuntimeError("no mood")
        self.tunnels.discard(tunnel)


async def test_a_keeper_that_fails_at_one_tunnel(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.store._keeper = keeper = Moody(1)
    bench.open(range(1))
    await bench.stored(1)
    bench.open(range(1, 2))
    await bench.stored(2)
    bench.open(range(2, 3))
    await bench.stored(3)
    for tunnel in range(3):
        bench.deposits.forget(tunnel)
    await bench.stored(0)
    assert keeper.tunnels == set()
    assert open_pipes() == bench.before + 6, "descriptors in store were left open"
    assert len(caplog.records) == 2
    bench.store._keeper = None


async def test_a_descriptor_in_store_that_is_closed_is_left_out(bench: Bench) -> None:
    closed = (9998, 9999)
    bench.store.hand_over([(1, Connection()), (2, closed), (3, Connection())])
    inherited = await within(bench.inherited(), "the tunnels")
    assert sorted(inherited) == [1, 3]
    for connections in inherited.values():
        for fd in connections:
            os.close(fd)
    bench.store._kept.pop(2)


async def test_a_store_that_is_unsettled_again_at_once_is_waited_for(bench: Bench) -> None:
    """Batches of tunnels move one right behind the other; a successor must not start between two."""
    with bench.store.unsettled():
        waiting = asyncio.create_task(bench.store.settled())
        await turn()
    with bench.store.unsettled():
        await turn(2)
        assert not waiting.done()
    await within(waiting, "the end of it")
