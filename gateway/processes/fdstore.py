"""The descriptor store: the supervisor holds a second descriptor of every tunnel's connections, for its worker's heirs.

A connection lives as long as any process has it open, so the tunnels of a worker that dies are still there when its
successor comes. Over a socket pair beside the control channel the worker says which tunnels have opened
(:class:`Deposits`), with duplicates of their descriptors, and which have ended; the supervisor's end of it
(:class:`DescriptorStore`, one for each slot) closes its copies of those at once. A new worker is first sent all that
its slot has in store, and carries on what it can (``tunnels/moving/adoption.py``). In an upgrade tunnels move from one
slot to another while both have a worker, and their descriptors with them.

A message is a run of 64-bit integers: how many tunnels have ended, their ids, then ids of those that have opened, each
of which brings two descriptors along (``SCM_RIGHTS``, unix(7)). One of tunnels in store ends with an empty message.
The socket pair keeps messages apart and in order (``SOCK_SEQPACKET``). An end goes behind its opening, since what is
ended has been sent before: an opening that still waits to be sent when its tunnel ends is never sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from array import array
from collections.abc import Iterable, Iterator, Sequence
from errno import EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS
from itertools import islice
from typing import Protocol

from gateway.observe.seldom import Seldom
from gateway.processes.rights import Ancillary, connections_of
from gateway.tunnels.moving.adoption import Connections

OPENED_AT_ONCE = 120
"""Tunnels whose descriptors go in one message: the kernel takes 253 (SCM_MAX_FD)."""

ENDED_AT_ONCE = 1000
MESSAGE_BYTES = 8 * (1 + ENDED_AT_ONCE + OPENED_AT_ONCE)
ANCILLARY_BYTES = socket.CMSG_SPACE(2 * OPENED_AT_ONCE * array("i").itemsize)
MESSAGES_AT_ONCE = 16
"""Read before the supervisor does anything else."""

DELAY_SECONDS = 0.01
"""How long a worker gathers what it has to say. A tunnel that opened within this time before a crash is lost."""

RETRY_SECONDS = 0.02
_FULL = (EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS)
"""The other end has not read enough yet; ETOOMANYREFS: too many descriptors of this user are on their way."""

log = logging.getLogger("gateway")


def store_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair: the supervisor's end, and the worker's. :raises OSError: no descriptors are left"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _send(sock: socket.socket, ended: Sequence[int], opened: Sequence[tuple[int, Connections]]) -> None:
    """:raises OSError: with an errno in ``_FULL`` if it may be tried again"""
    message = array("q", (len(ended), *ended, *(tunnel for tunnel, _ in opened)))
    descriptors = array("i", [fd for _, connections in opened for fd in connections])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if opened else []
    sock.sendmsg([message], ancillary, socket.MSG_NOSIGNAL)


class _Received:
    """One message, as far as there were descriptors left in this process for what it brings."""

    def __init__(self, data: bytes, ancillary: Ancillary) -> None:
        message = array("q", data)
        ended = message[0]
        self.ended = message[1 : 1 + ended]
        opened = message[1 + ended :]
        self.opened: list[tuple[int, Connections]] = list(zip(opened, connections_of(ancillary), strict=False))
        self.without_descriptors = len(opened) - len(self.opened)


def _receive(sock: socket.socket) -> _Received | None:
    """The next message; None at the end. :raises BlockingIOError: there is none now"""
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(MESSAGE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            continue  # the other process died with something unread; what it has sent comes now
        return _Received(data, ancillary) if data else None


class Deposits:
    """A worker's end."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """:param sock: connected to the supervisor's; this object owns it"""
        self._sock = sock
        self._loop = loop
        self._opened: dict[int, Connections] = {}
        self._ended: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def inherited(self) -> dict[int, Connections]:
        """What the supervisor hands over, by the tunnels' ids: first of all what the slot has in store, later what
        moves here. It waits for the supervisor, which has to be about to do so.

        Descriptors that this process has no room for are left out.

        :raises ConnectionError: the supervisor is gone
        """
        found: dict[int, Connections] = {}
        self._sock.setblocking(True)
        while (received := _receive(self._sock)) is not None:
            if not received.opened and not received.without_descriptors:
                self._sock.setblocking(False)
                return found
            found.update(received.opened)
        raise ConnectionResetError("the supervisor is gone")

    def keep(self, tunnel: int, client_fd: int, backend_fd: int) -> None:
        """Have a tunnel's connections kept. Its row tells all about it by now.

        :param tunnel: its id
        """
        self._opened[tunnel] = (client_fd, backend_fd)
        if len(self._opened) == OPENED_AT_ONCE:
            self._flush()
        else:
            self._flush_soon(DELAY_SECONDS)

    def forget(self, tunnel: int) -> None:
        """Have the copies of a tunnel's connections closed; its own are not closed yet, but shut down."""
        if self._opened.pop(tunnel, None) is None:
            self._ended.append(tunnel)
            self._flush_soon(DELAY_SECONDS)

    async def said(self) -> None:
        """Wait until the supervisor can know of every tunnel that is open."""
        self._flush()
        while self._opened or self._ended:
            await asyncio.sleep(RETRY_SECONDS)
            self._flush()

    def close(self) -> None:
        """Say what is left to say, and no more."""
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        self._sock.close()

    def _flush_soon(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._opened or self._ended:
            ended = self._ended[:ENDED_AT_ONCE]
            opened = list(islice(self._opened.items(), OPENED_AT_ONCE))
            try:
                _send(self._sock, ended, opened)
            except OSError as error:
                if error.errno in _FULL:
                    self._flush_soon(RETRY_SECONDS)
                else:
                    # The supervisor is gone, and this worker is about to drain.
                    self._opened.clear()
                    self._ended.clear()
                return
            del self._ended[: len(ended)]
            for tunnel, _ in opened:
                del self._opened[tunnel]


class Keeper(Protocol):
    """Keeps connections for whoever comes after this process."""

    def keep(self, tunnels: Iterable[tuple[int, Connections]]) -> None:
        """Keep the connections of tunnels, by the tunnels' ids."""

    def forget(self, tunnel: int) -> None:
        """A tunnel has ended."""


class DescriptorStore:
    """The supervisor's end, for the tunnels of one slot."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptors: int, keeper: Keeper | None = None) -> None:
        """
        :param descriptors: one more than the largest descriptor that may be kept
        :param keeper: keeps what is in store beyond the life of this process
        """
        self._loop = loop
        self._descriptors = descriptors
        self._keeper = keeper
        self._kept: dict[int, Connections] = {}
        self._sock: socket.socket | None = None
        self._to_hand_over: list[tuple[int, Connections]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._short = Seldom(log.error)
        self._settled = asyncio.Event()
        self._settled.set()

    @contextlib.contextmanager
    def unsettled(self) -> Iterator[None]:
        """While it is open whether some tunnels of this slot go to another."""
        self._settled.clear()
        try:
            yield
        finally:
            self._settled.set()

    async def settled(self) -> None:
        """Wait until it is certain which tunnels are this slot's. A worker that looked before would take for lost what
        another one is about to take over."""
        await self._settled.wait()

    def __len__(self) -> int:
        """Tunnels in store."""
        return len(self._kept)

    def serve(self, sock: socket.socket) -> None:
        """Serve a new worker, over a socket that the store owns from now on: hand over what there is, and listen."""
        self._sock = sock
        self._to_hand_over = list(self._kept.items())
        self._loop.add_reader(sock, self._read, sock)
        self._loop.add_writer(sock, self._hand_over, sock)

    def hand_over(self, tunnels: Iterable[tuple[int, Connections]]) -> None:
        """Keep tunnels that were another slot's, and have this slot's worker receive them (``Deposits.inherited``)."""
        moved = list(tunnels)
        self._kept.update(moved)
        self._to_hand_over = moved
        if self._sock is not None:
            self._loop.add_writer(self._sock, self._hand_over, self._sock)

    def give_up(self, ids: Iterable[int]) -> list[tuple[int, Connections]]:
        """Keep some tunnels no longer, for another store to do so; those that are not in store are left out."""
        if self._sock is not None:
            with contextlib.suppress(BlockingIOError):
                while (received := _receive(self._sock)) is not None:
                    self._note(received)
        return [(tunnel, self._kept.pop(tunnel)) for tunnel in ids if tunnel in self._kept]

    def kept(self) -> list[tuple[int, Connections]]:
        """What is in store."""
        return list(self._kept.items())

    def restore(self, tunnels: Iterable[tuple[int, Connections]], sock: socket.socket | None = None) -> None:
        """Keep tunnels that were in store before. :param sock: where their worker, which knows them, is heard from"""
        self._kept.update(tunnels)
        if sock is not None:
            self._sock = sock
            self._loop.add_reader(sock, self._read, sock)

    def fileno(self) -> int:
        """The descriptor of the socket to the worker. :raises ValueError: there is no worker"""
        if self._sock is None:
            raise ValueError("nobody is served")
        return self._sock.fileno()

    def part(self) -> None:
        """The worker is dead: take in what it has said and nobody has heard yet."""
        sock, self._sock = self._sock, None
        self._to_hand_over = []
        if sock is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        with sock, contextlib.suppress(BlockingIOError):
            while (received := _receive(sock)) is not None:
                self._note(received)

    def end(self) -> None:
        """End the connections of everything in store, whoever else has them open, and close them."""
        for connections in self._kept.values():
            for fd in connections:
                with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close everything in store."""
        self.part()
        for tunnel, connections in self._kept.items():
            if self._keeper is not None:
                self._keeper.forget(tunnel)
            _close(connections)
        self._kept.clear()

    def _read(self, sock: socket.socket) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            try:
                received = _receive(sock)
            except BlockingIOError:
                return
            if received is None:
                self._loop.remove_reader(sock)
                return
            self._note(received)

    def _note(self, received: _Received) -> None:
        for tunnel in received.ended:
            connections = self._kept.pop(tunnel, None)
            if connections is not None:
                if self._keeper is not None:
                    self._keeper.forget(tunnel)
                _close(connections)
        refused = received.without_descriptors
        kept: list[tuple[int, Connections]] = []
        for tunnel, connections in received.opened:
            if max(connections) < self._descriptors:
                kept.append((tunnel, connections))
            else:
                _close(connections)
                refused += 1
        self._kept.update(kept)
        if self._keeper is not None:
            self._keeper.keep(kept)
        if refused:
            self._short(
                "the supervisor is short of descriptors: %d tunnels more would be lost with their worker; "
                "raise the hard limit (ulimit -Hn, LimitNOFILE=)",
                refused,
            )

    def _hand_over(self, sock: socket.socket) -> None:
        while True:
            batch = self._to_hand_over[-OPENED_AT_ONCE:]
            try:
                _send(sock, (), batch)
            except BlockingIOError:
                return
            except OSError as error:
                self._loop.remove_writer(sock)
                if error.errno in _FULL:
                    self._timer = self._loop.call_later(
                        RETRY_SECONDS, self._loop.add_writer, sock, self._hand_over, sock
                    )
                return
            if not batch:
                self._loop.remove_writer(sock)
                return
            del self._to_hand_over[-len(batch) :]


def _close(connections: Connections) -> None:
    for fd in connections:
        os.close(fd)
