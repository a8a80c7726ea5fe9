"""The poller: tunnels are served inside ``select()``, watched descriptors called back, and asyncio gets its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import select
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from errno import ECONNRESET, EINVAL
from functools import partial

import pytest

from gateway.tunnels.relay.owner import Nobody
from gateway.tunnels.relay.poller import RECEIVE_BYTES, Poller
from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, NEVER
from tests.support.deadline import turn
from tests.support.frames import TEXT

from .harness import DESCRIPTORS, Rig
from .wire import frame

HELLO = frame(TEXT, b"hello", masked=True)
MAX_EVENTS = 1024
"""that one turn serves"""
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


# --- what asyncio gets ------------------------------------------------------------------------------------------------


def test_what_is_registered_is_returned_with_the_events_asked_for(rig: Rig, pair: Pair) -> None:
    left, right = pair
    key = rig.poller.register(left, selectors.EVENT_READ, "data")
    assert rig.poller.select(0) == []
    right.send(b"x")
    assert rig.poller.select(0) == [(key, selectors.EVENT_READ)]
    key = rig.poller.modify(left, selectors.EVENT_READ | selectors.EVENT_WRITE)
    assert rig.poller.select(0) == [(key, selectors.EVENT_READ | selectors.EVENT_WRITE)]
    key = rig.poller.modify(left, selectors.EVENT_WRITE)
    assert rig.poller.select(0) == [(key, selectors.EVENT_WRITE)]
    rig.poller.unregister(left)
    assert rig.poller.select(0) == []


def test_a_hang_up_is_readable_and_writable_as_with_any_selector(rig: Rig, pair: Pair) -> None:
    left, right = pair
    right.close()
    for events in (selectors.EVENT_READ, selectors.EVENT_WRITE, selectors.EVENT_READ | selectors.EVENT_WRITE):
        rig.poller.register(left, events)
        with selectors.EpollSelector() as reference:
            reference.register(left, events)
            expected = [found for _, found in reference.select(0)]
        assert [found for _, found in rig.poller.select(0)] == expected == [events]
        rig.poller.unregister(left)


def test_time_outs(rig: Rig, pair: Pair) -> None:
    left, right = pair
    rig.poller.register(left, selectors.EVENT_READ)
    for timeout, least in ((-1, 0.0), (0, 0.0), (0.0001, 0.0001), (0.02, 0.02)):
        started = time.monotonic()
        assert rig.poller.select(timeout) == []
        assert time.monotonic() - started >= least
    # Without one, and with one that is far away, it waits for an event: there is one.
    right.send(b"x")
    assert rig.poller.select()
    assert rig.poller.select(1e9)


# --- what is watched --------------------------------------------------------------------------------------------------


def test_a_watched_descriptor_is_called_back_and_not_returned(rig: Rig, pair: Pair) -> None:
    left, right = pair
    calls: list[int] = []
    rig.poller.watch(left.fileno(), select.EPOLLIN, calls.append)
    assert rig.poller.select(0) == []
    assert calls == []
    right.send(b"x")
    assert rig.poller.select(0) == []
    assert calls == [select.EPOLLIN]
    rig.poller.rewatch(left.fileno(), select.EPOLLOUT, calls.append)
    rig.poller.select(0)
    assert calls.pop() == select.EPOLLOUT
    rig.poller.unwatch(left.fileno())
    assert rig.poller.select(0) == []
    assert len(calls) == 1
    assert rig.waiting() == []


def test_a_callback_may_unwatch_what_is_served_next(rig: Rig) -> None:
    """Both have events in one batch; the first one called closes both."""
    pairs = [socket.socketpair() for _ in range(2)]
    calls: list[int] = []

    def close_all(mask: int) -> None:
        calls.append(mask)
        for left, right in pairs:
            rig.poller.unwatch(left.fileno())
            rig.relay.retire(left.detach())
            right.close()

    for left, right in pairs:
        rig.poller.watch(left.fileno(), select.EPOLLIN, close_all)
        right.send(b"x")
    rig.serve()
    rig.serve()
    assert len(calls) == 1


def test_a_retired_descriptor_is_closed_once_no_event_can_mean_it(rig: Rig, pair: Pair) -> None:
    fd = os.dup(pair[0].fileno())
    inode = os.fstat(fd).st_ino
    rig.relay.retire(fd)
    assert os.fstat(fd).st_ino == inode
    rig.serve()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# --- all of it at once ------------------------------------------------------------------------------------------------


def test_a_batch_is_served_whole(rig: Rig, pair: Pair) -> None:
    """A tunnel, a watched descriptor and one of asyncio's, all ready in the same turn."""
    tunnel = rig.open("unix")
    left, right = pair
    key = rig.poller.register(left, selectors.EVENT_READ)
    calls: list[int] = []
    other_left, other_right = socket.socketpair()
    with other_left, other_right:
        rig.poller.watch(other_left.fileno(), select.EPOLLIN, calls.append)
        right.send(b"x")
        other_right.send(b"x")
        tunnel.client.send(HELLO)
        tunnel.backend.send(HELLO)
        assert len(rig.waiting()) == 4
        assert rig.poller.select(0) == [(key, selectors.EVENT_READ)]
        assert calls == [select.EPOLLIN]
        assert tunnel.backend.has(HELLO)
        assert tunnel.client.has(HELLO)
        rig.poller.unwatch(other_left.fileno())
        rig.poller.unregister(left)


def test_more_events_than_one_batch_holds() -> None:
    count = MAX_EVENTS // 2 + 8
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    try:
        with closing(Rig(count)) as rig:
            tunnels = [rig.open("unix") for _ in range(count)]
            for tunnel in tunnels:
                tunnel.client.send(HELLO)
                tunnel.backend.send(HELLO)
            rig.rest(turns=3)
            assert all(tunnel.backend.has(HELLO) and tunnel.client.has(HELLO) for tunnel in tunnels)
            assert rig.totals(CLIENT).frames == {TEXT: count}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_under_asyncio(rig: Rig) -> None:
    """Timers, tasks and servers of a real loop go on while tunnels are relayed."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def run() -> None:
        tunnel = rig.open()
        server = await asyncio.start_server(echo, "127.0.0.1")
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for n in range(100):
            writer.write(b"%03d" % n)
            tunnel.peer(n % 2).send(HELLO if n % 2 == CLIENT else frame(TEXT, b"hello"))
            assert await reader.readexactly(3) == b"%03d" % n
        await turn()
        assert tunnel.backend.has(HELLO * 50)
        assert tunnel.client.has(frame(TEXT, b"hello") * 50)
        ended = asyncio.Event()
        rig.when_ended = ended.set
        tunnel.client.close()
        tunnel.backend.close()
        await ended.wait()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert rig.totals(BACKEND_SIDE).frames == {TEXT: 50}

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(rig.poller)) as runner:
        runner.run(run())


def test_a_callback_that_fails_is_heard_no_more_and_ends_nothing_else(
    rig: Rig, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = pair
    called = []

    def fail(mask: int) -> None:
        called.append(mask)
        raise RuntimeError("a bug")

    rig.poller.watch(left.fileno(), select.EPOLLIN, fail)
    right.send(b"x")
    assert rig.poller.select(0) == []
    assert rig.poller.select(0) == []
    assert called == [select.EPOLLIN]
    assert "failed (descriptor" in caplog.text


def test_the_object_of_a_callback_that_fails_is_abandoned(rig: Rig, pair: Pair) -> None:
    left, right = pair
    failures: list[None] = []

    class Connection:
        abandoned = 0

        def fail(self, *arguments: object) -> int:
            raise RuntimeError("a bug")

        def abandon(self) -> None:
            self.abandoned += 1
            rig.poller.unwatch(left.fileno())

    rig.poller.on_failure = lambda: failures.append(None)
    for watch in (
        lambda fail: rig.poller.watch(left.fileno(), select.EPOLLIN, fail),
        lambda fail: rig.poller.read(left.fileno(), fail),
    ):
        connection = Connection()
        watch(connection.fail)
        right.send(b"x")
        assert rig.poller.select(0) == []
        assert connection.abandoned == 1
    assert len(failures) == 2


@pytest.mark.parametrize("how", ["let_go", "callback_on", "rewatch", "unwatch", "read_on"])
def test_what_was_received_for_a_reader_that_is_replaced_is_not_lost(rig: Rig, how: str) -> None:
    """Both are ready in one turn, and the first to be called takes the other one's connection."""
    pairs = [socket.socketpair() for _ in range(2)]
    fds = [left.fileno() for left, _ in pairs]
    first: list[int] = []
    found: list[object] = []

    def take(other: int) -> None:
        if how == "read_on":
            rig.poller.read_on(other, found.append)
        elif how == "callback_on":
            found.append(rig.poller.callback_on(other, found.append))
        elif how == "rewatch":
            found.append(rig.poller.rewatch(other, select.EPOLLRDHUP, found.append))
        else:
            found.append(getattr(rig.poller, how)(other))

    def read(me: int, data: bytes | int) -> None:
        first.append(me)
        if len(first) == 1:
            take(fds[1 - fds.index(me)])

    for fd, (_, right) in zip(fds, pairs, strict=True):
        rig.poller.read(fd, partial(read, fd))
        right.send(b"early")
    rig.poller.select(0)
    assert found == [b"early"]
    assert len(first) == 1
    for left, right in pairs:
        left.close()
        right.close()


# --- what is received for those who read ------------------------------------------------------------------------------


def test_a_reader_is_called_with_what_has_come(rig: Rig, pair: Pair) -> None:
    left, right = pair
    found: list[bytes | int] = []
    rig.poller.read(left.fileno(), found.append)
    assert rig.poller.select(0) == []
    assert found == []
    right.send(b"hello")
    assert rig.poller.select(0) == []
    right.close()
    rig.poller.select(0)
    assert found == [b"hello", b""]
    rig.poller.unwatch(left.fileno())
    rig.poller.select(0)
    assert found == [b"hello", b""]
    assert rig.waiting() == []


def test_a_reader_is_told_what_went_wrong(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        found: list[bytes | int] = []
        rig.poller.read(client.fileno(), found.append)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        accepted.close()
        rig.poller.select(1)
        assert found == [ECONNRESET]
        rig.poller.unwatch(client.fileno())


def test_a_reader_may_become_a_callback(rig: Rig, pair: Pair) -> None:
    left, right = pair
    calls: list[int] = []
    rig.poller.read(left.fileno(), lambda data: rig.poller.rewatch(left.fileno(), select.EPOLLIN, calls.append))
    right.send(b"for the reader")
    rig.poller.select(0)
    assert calls == []
    right.send(b"for the callback")
    rig.poller.select(0)
    assert calls == [select.EPOLLIN]
    assert left.recv(100) == b"for the callback"
    rig.poller.unwatch(left.fileno())


def test_a_callback_may_become_a_reader(rig: Rig, pair: Pair) -> None:
    left, right = pair
    found: list[bytes | int] = []
    rig.poller.watch(left.fileno(), select.EPOLLOUT, lambda mask: rig.poller.read(left.fileno(), found.append, True))
    right.send(b"there before")
    rig.poller.select(0)
    assert found == []
    rig.poller.select(0)
    assert found == [b"there before"]
    rig.poller.unwatch(left.fileno())


def test_another_reader_goes_on(rig: Rig, pair: Pair) -> None:
    left, right = pair
    first: list[bytes | int] = []
    second: list[bytes | int] = []
    rig.poller.read(left.fileno(), first.append)
    right.send(b"one")
    rig.poller.select(0)
    rig.poller.read_on(left.fileno(), second.append)
    right.send(b"two")
    rig.poller.select(0)
    assert (first, second) == ([b"one"], [b"two"])
    rig.poller.unwatch(left.fileno())


@pytest.mark.parametrize("more", [0, 1, RECEIVE_BYTES])
def test_a_reader_is_called_until_all_was_received(rig: Rig, pair: Pair, more: int) -> None:
    """Nothing comes behind it that epoll could tell of."""
    left, right = pair
    found: list[bytes | int] = []
    data = bytes(RECEIVE_BYTES + more)
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * RECEIVE_BYTES)
    rig.poller.read(left.fileno(), found.append)
    assert right.send(data) == len(data)
    for _ in range(4):
        rig.poller.select(0)
    assert b"".join(each for each in found if isinstance(each, bytes)) == data
    rig.poller.unwatch(left.fileno())


def test_a_reader_is_told_of_an_end_that_came_with_the_last_bytes(rig: Rig, pair: Pair) -> None:
    left, right = pair
    found: list[bytes | int] = []
    rig.poller.read(left.fileno(), found.append)
    right.send(b"that is all")
    right.close()
    rig.poller.select(0)
    rig.poller.select(0)
    assert found[:2] == [b"that is all", b""]
    rig.poller.unwatch(left.fileno())


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_the_relay_is_told_of_what_a_reader_left(rig: Rig, family: str) -> None:
    """A reader gets the last bytes before the tunnel opens; the end behind them is the relay's."""
    tunnel = rig.open(family, ahead=b"early")
    rig.until(tunnel.backend.has_ended, "the FIN")
    assert tunnel.backend.received == b""


def test_who_is_let_go_by_another_reader_of_the_same_turn_is_not_called(rig: Rig) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    found: list[bytes | int] = []

    def let_all_go(data: bytes | int) -> None:
        found.append(data)
        for left, _ in pairs:
            rig.poller.unwatch(left.fileno())

    for left, right in pairs:
        rig.poller.read(left.fileno(), let_all_go)
        right.send(b"x")
    rig.poller.select(0)
    assert found == [b"x"]
    for left, right in pairs:
        left.close()
        right.close()


def test_a_reader_that_fails_is_heard_no_more(rig: Rig, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    left, right = pair
    called = []

    def fail(data: bytes | int) -> None:
        called.append(data)
        raise RuntimeError("a bug")

    rig.poller.read(left.fileno(), fail)
    for _ in range(2):
        right.send(b"x")
        assert rig.poller.select(0) == []
    assert called == [b"x"]
    assert "failed (descriptor" in caplog.text


# --- what is deferred -------------------------------------------------------------------------------------------------


def test_heavy_calls_are_made_when_all_else_is_done(rig: Rig) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    happened: list[object] = []

    def ask(n: int) -> None:
        happened.append(f"reader {n}")
        rig.poller.defer(lambda: happened.append(f"call {n}") or n, happened.append)

    for n, (left, right) in enumerate(pairs):
        rig.poller.read(left.fileno(), lambda data, n=n: ask(n))
        right.send(b"x")
    rig.poller.select(0)
    assert sorted(map(str, happened[:3])) == ["reader 0", "reader 1", "reader 2"]
    assert sorted(map(str, happened[3:6])) == ["call 0", "call 1", "call 2"]
    assert sorted(map(int, map(str, happened[6:]))) == [0, 1, 2]
    for left, right in pairs:
        rig.poller.unwatch(left.fileno())
        left.close()
        right.close()


def test_what_is_deferred_outside_of_a_turn_does_not_wait(rig: Rig) -> None:
    """And what that defers in its turn is done, too."""
    done: list[int] = []
    rig.poller.defer(lambda: 7, lambda first: rig.poller.defer(lambda: first + 1, done.append))
    began = time.monotonic()
    rig.poller.select(5)
    assert done == [8]
    assert time.monotonic() - began < 4


def test_a_heavy_call_that_fails_takes_nothing_with_it(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def fail(*arguments: int) -> int:
        raise RuntimeError("a bug")

    rig.poller.defer(fail, done.append)
    rig.poller.defer(lambda: 1, fail)
    rig.poller.defer(lambda: 2, done.append)
    rig.poller.select(0)
    assert done == [-EINVAL, 2]
    assert caplog.text.count("RuntimeError: a bug") == 2


# --- going on waiting -------------------------------------------------------------------------------------------------


def test_tunnels_are_served_for_as_long_as_asyncio_means_to_wait(rig: Rig) -> None:
    """asyncio hears of nothing but its own."""
    tunnel = rig.open("unix")
    sender = threading.Thread(target=lambda: [(tunnel.client.send(HELLO), time.sleep(0.01)) for _ in range(10)])
    began = time.monotonic()
    sender.start()
    assert rig.poller.select(0.3) == []
    assert time.monotonic() - began >= 0.3
    sender.join()
    assert tunnel.backend.has(HELLO * 10)


def test_whoever_is_told_of_an_end_may_have_given_asyncio_something_to_do(rig: Rig) -> None:
    tunnel = rig.open("unix")
    tunnel.client.close()
    tunnel.backend.close()
    began = time.monotonic()
    rig.poller.select(5)
    assert time.monotonic() - began < 4
    rig.rest()


def test_ticks_come_while_it_waits(rig: Rig) -> None:
    ticks: list[int] = []

    class Ticking(Nobody):
        def tick(self, now: int) -> int:
            ticks.append(now)
            return now + 20_000_000 if len(ticks) < 5 else NEVER

    poller = Poller(rig.table, DESCRIPTORS, Ticking())
    with closing(poller):
        poller.relay.tick_at(time.monotonic_ns())
        poller.select(0.3)
        assert len(ticks) == 5
        assert all(later - sooner >= 20_000_000 for sooner, later in itertools.pairwise(ticks))
        poller.select(0)
        assert len(ticks) == 5
