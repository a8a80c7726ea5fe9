"""The descriptor store: the supervisor keeps a duplicate of every tunnel's descriptors for the worker's successor.

A connection lives as long as any process has it open, so a dead worker's tunnels are still open when its successor
starts. Over a socket pair beside the control channel, the worker reports which tunnels have opened, with duplicates of
their descriptors, and which have ended (:class:`Deposits`). The supervisor's end (:class:`DescriptorStore`, one per
slot) closes its copies of ended tunnels at once. A new worker first receives everything stored for its slot, and
resumes what it can (``tunnels/moving/adoption.py``). In an upgrade, tunnels and their descriptors move from one slot to
another while both slots have a worker.

A message is a run of 64-bit integers: how many tunnels have ended, their ids, then the ids of those that have opened,
each with two descriptors (``SCM_RIGHTS``, unix(7)). An empty message marks the end of the stored tunnels. The socket
pair preserves message boundaries and order (``SOCK_SEQPACKET``). A tunnel's end is always sent after its opening; if
the tunnel ends before its opening was sent, neither is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from array import array
from collections.abc import Iterable, Iterator, Sequence
from errno import EAGAIN, EBADF, ENOBUFS, ENOMEM, ETOOMANYREFS
from itertools import islice
from typing import Protocol

from gateway.observe.seldom import Seldom
from gateway.processes.rights import Ancillary, close_all, connections_of, ids_in, without_closed
from gateway.processes.stored import StoredConnections
from gateway.tunnels.moving.adoption import Connections

OPENED_AT_ONCE = 120
"""Tunnels whose descriptors go in one message: the kernel allows 253 descriptors (SCM_MAX_FD)."""

ENDED_AT_ONCE = 1000
MESSAGE_BYTES = 8 * (1 + ENDED_AT_ONCE + OPENED_AT_ONCE)
ANCILLARY_BYTES = socket.CMSG_SPACE(2 * OPENED_AT_ONCE * array("i").itemsize)
MESSAGES_AT_ONCE = 16
"""Messages read in one go before the supervisor serves anything else."""

DELAY_SECONDS = 0.005
"""How long a worker batches its reports. A tunnel is reported when it has lived this long: one that a backend turns
away at once is over by then. So tunnels that opened within twice this time before a crash are lost."""

RETRY_SECONDS = 0.02
_FULL = (EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS)
"""The other end has not read enough yet. ETOOMANYREFS: this user has too many descriptors in flight."""

log = logging.getLogger("gateway")
_skipped = Seldom(log.error)


def store_pair() -> tuple[socket.socket, socket.socket]:
    """Make a connected pair: the supervisor's end and the worker's. :raises OSError: no descriptors are left"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _send(sock: socket.socket, ended: Sequence[int], opened: Sequence[tuple[int, Connections]]) -> None:
    """:raises OSError: with an errno in ``_FULL`` if a retry may succeed"""
    message = array("q", (len(ended), *ended, *(tunnel for tunnel, _ in opened)))
    descriptors = array("i", [fd for _, connections in opened for fd in connections])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if opened else []
    sock.sendmsg([message], ancillary, socket.MSG_NOSIGNAL)


class _Received:
    """One message. Descriptors that this process had no room for are missing."""

    def __init__(self, data: bytes, ancillary: Ancillary) -> None:
        """:raises ValueError: it is malformed; its descriptors have been closed"""
        connections = connections_of(ancillary)
        message = ids_in(data, connections)
        ended = message[0]
        opened = message[1 + ended :]
        if not 0 <= ended < len(message) or len(connections) > len(opened):
            close_all(connections)
            raise ValueError(
                f"{len(message)} integers cannot hold {ended} ended tunnels and {len(connections)} opened ones"
            )
        self.ended = message[1 : 1 + ended]
        self.opened: list[tuple[int, Connections]] = list(zip(opened, connections, strict=False))
        self.without_descriptors = len(opened) - len(self.opened)


def _receive(sock: socket.socket) -> _Received | None:
    """Return the next message, or None at the end. :raises BlockingIOError: there is none now"""
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(MESSAGE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            continue  # the other process died with unread data; what it sent follows
        if not data:
            return None
        try:
            return _Received(data, ancillary)
        except ValueError as error:  # later messages may be fine
            _skipped("skipped a malformed message to the descriptor store: %s", error)


class Deposits:
    """The worker's end."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """:param sock: connected to the supervisor's end; this object owns it"""
        self._sock = sock
        self._loop = loop
        self._opened: dict[int, Connections] = {}
        """tunnels to report"""
        self._young: dict[int, Connections] = {}
        """those that have opened since the last report, which go with the one after the next"""
        self._ended: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def inherited(self) -> dict[int, Connections]:
        """Receive the connections that the supervisor hands over, by tunnel id: at the start everything stored for the
        slot, later those that move here. Blocks, so the supervisor must be about to send them.

        Connections that this process has no descriptors for are left out.

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
        """Store a tunnel's connections with the supervisor. The tunnel's row must be complete by now.

        :param tunnel: its id
        """
        self._young[tunnel] = (client_fd, backend_fd)
        self._report_in(DELAY_SECONDS)

    def forget(self, tunnel: int) -> None:
        """Have a tunnel's stored connections closed. The worker has shut down its own, but not closed them yet."""
        if self._young.pop(tunnel, None) is None and self._opened.pop(tunnel, None) is None:
            self._ended.append(tunnel)
            self._report_in(DELAY_SECONDS)

    async def flushed(self) -> None:
        """Wait until every report has been sent to the supervisor."""
        self._flush()
        while self._opened or self._young or self._ended:
            await asyncio.sleep(RETRY_SECONDS)
            self._flush()

    def close(self) -> None:
        """Send what is pending, as far as possible without waiting, and close the socket."""
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        self._sock.close()

    def _flush(self) -> None:
        """Report everything, however young."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._grow_up()
        self._report()

    def _flush_due(self) -> None:
        self._timer = None
        self._report()
        self._grow_up()
        if self._opened:
            self._report_in(DELAY_SECONDS)

    def _grow_up(self) -> None:
        self._opened.update(self._young)
        self._young.clear()

    def _report_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._flush_due)

    def _report(self) -> None:
        while self._opened or self._ended:
            ended = self._ended[:ENDED_AT_ONCE]
            opened = list(islice(self._opened.items(), OPENED_AT_ONCE))
            try:
                _send(self._sock, ended, opened)
            except OSError as error:
                if error.errno in _FULL:
                    self._report_in(RETRY_SECONDS)
                else:
                    # The supervisor is gone; this worker is about to drain.
                    self._opened.clear()
                    self._ended.clear()
                return
            del self._ended[: len(ended)]
            for tunnel, _ in opened:
                del self._opened[tunnel]


class Keeper(Protocol):
    """Keeps connections beyond the life of this process."""

    def keep(self, tunnels: Iterable[tuple[int, Connections]]) -> None:
        """Keep the connections of tunnels, by tunnel id."""

    def forget(self, tunnel: int) -> None:
        """Forget the connections of a tunnel that has ended."""


class DescriptorStore:
    """The supervisor's end, for the tunnels of one slot."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptors: int, keeper: Keeper | None = None) -> None:
        """
        :param descriptors: one more than the largest descriptor that may be stored
        :param keeper: keeps the stored connections beyond the life of this process
        """
        self._loop = loop
        self._descriptors = descriptors
        self._keeper = keeper
        self._kept = StoredConnections()
        self._sock: socket.socket | None = None
        self._to_hand_over: list[tuple[int, Connections]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._short = Seldom(log.error)
        self._settled = asyncio.Event()
        self._settled.set()

    @contextlib.contextmanager
    def unsettled(self) -> Iterator[None]:
        """A context in which it is undecided whether some tunnels of this slot move to another."""
        self._settled.clear()
        try:
            yield
        finally:
            self._settled.set()

    async def settled(self) -> None:
        """Wait until it is decided which tunnels are this slot's. A worker that started before that would count tunnels
        as lost that another worker is about to take over."""
        while not self._settled.is_set():  # the next batch may have begun before this task runs
            await self._settled.wait()

    def __len__(self) -> int:
        """How many tunnels are stored."""
        return len(self._kept)

    def serve(self, sock: socket.socket) -> None:
        """Serve a new worker over a socket, which the store now owns: send it all stored tunnels, read its reports."""
        self._sock = sock
        self._to_hand_over = self._kept.items()
        self._loop.add_reader(sock, self._read, sock)
        self._loop.add_writer(sock, self._hand_over, sock)

    def hand_over(self, tunnels: Iterable[tuple[int, Connections]]) -> None:
        """Store tunnels that were another slot's, and send them to this slot's worker (``Deposits.inherited``)."""
        moved = list(tunnels)
        self._kept.update(moved)
        self._to_hand_over = moved
        if self._sock is not None:
            self._loop.add_writer(self._sock, self._hand_over, self._sock)

    def give_up(self, ids: Iterable[int]) -> list[tuple[int, Connections]]:
        """Remove tunnels so that another store can take them; return those that were stored here."""
        if self._sock is not None:
            with contextlib.suppress(BlockingIOError):
                while (received := _receive(self._sock)) is not None:
                    self._note(received)
        found = ((tunnel, self._kept.pop(tunnel)) for tunnel in ids)
        return [(tunnel, connections) for tunnel, connections in found if connections is not None]

    def kept(self) -> list[tuple[int, Connections]]:
        """Return all stored tunnels."""
        return self._kept.items()

    def restore(self, tunnels: Iterable[tuple[int, Connections]], sock: socket.socket | None = None) -> None:
        """Store tunnels again. :param sock: to the worker that already serves them, which is not sent them again"""
        self._kept.update(tunnels)
        if sock is not None:
            self._sock = sock
            self._loop.add_reader(sock, self._read, sock)

    def fileno(self) -> int:
        """Return the descriptor of the socket to the worker. :raises ValueError: there is no worker"""
        if self._sock is None:
            raise ValueError("the store has no worker")
        return self._sock.fileno()

    def detach(self) -> None:
        """Detach from a dead worker: process the reports that are still unread, and close the socket."""
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
        """Shut down and close all stored connections, even if another process has them open too."""
        for _, connections in self._kept.items():
            for fd in connections:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                    sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close all stored connections."""
        self.detach()
        for tunnel in list(self._kept):
            self._drop(tunnel)

    def _drop(self, tunnel: int) -> None:
        """Close a tunnel's connections, if they are stored."""
        connections = self._kept.pop(tunnel)
        if connections is None:
            return
        if self._keeper is not None:
            try:
                self._keeper.forget(tunnel)
            except Exception:
                log.exception("tunnel %x ended, but could not be removed from the journal", tunnel)
        close_all((connections,))

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
            self._drop(tunnel)
        refused = received.without_descriptors
        kept: list[tuple[int, Connections]] = []
        for tunnel, connections in received.opened:
            if max(connections) < self._descriptors:
                kept.append((tunnel, connections))
            else:
                close_all((connections,))
                refused += 1
        self._kept.update(kept)
        if self._keeper is not None:
            try:
                self._keeper.keep(kept)
            except Exception:
                log.exception("could not store the connections of %d tunnels with the service manager", len(kept))
        if refused:
            self._short(
                "the supervisor is short of descriptors: %d more tunnels would be lost if their worker died; "
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
                if error.errno == EBADF and len(whole := without_closed(batch)) < len(batch):
                    log.error("lost %d tunnels: their stored descriptors are closed", len(batch) - len(whole))
                    self._to_hand_over[-len(batch) :] = whole
                    self._loop.add_writer(sock, self._hand_over, sock)
                elif error.errno in _FULL:
                    self._timer = self._loop.call_later(
                        RETRY_SECONDS, self._loop.add_writer, sock, self._hand_over, sock
                    )
                return
            if not batch:
                self._loop.remove_writer(sock)
                return
            del self._to_hand_over[-len(batch) :]
