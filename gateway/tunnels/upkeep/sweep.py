"""The sweep: once a second, one walk over a worker's rows for time-outs, Pings that are due, and dead sides.

No tunnel has a timer of its own. A walk finds the rows that fall due before the next walk; Pings are sent between the
walks, each before its deadline (:meth:`Sweep.tick`).

Tunnels that opened together, or received the same broadcast, would be pinged together ever after. So each walk counts
how many rows fall due in each tenth of a second ahead, and takes as many as the busiest stretch needs on average,
earliest deadline first. That gives the lowest possible peak with nothing late (Yao, Demers and Shenker, *A scheduling
model for reduced CPU energy*, FOCS 1995). Once spread, tunnels stay spread, and are pinged exactly when they are due.
While many tunnels are being closed in turns, the walks come more often (``pacing.py``).

Compiled by Cython if a C compiler is available (types in ``sweep.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from array import array

from gateway.protocol.closing import GOING_AWAY, SERVICE_RESTART
from gateway.tunnels.relay.deadlines import (
    awaits_answer,
    closed_by,
    demand,
    due_rows,
    idle_until,
    keepalive_due,
    lives_until,
    next_deadline,
    paced_until,
    stalled_until,
)
from gateway.tunnels.relay.relay import Relay
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CLOSING_NS,
    DEADLINE_NS,
    DIRTY,
    EXPIRES_NS,
    FD,
    ID,
    IDLE,
    LIVE,
    MAX_LIFETIME,
    NEVER,
    ON_LOSS_CODE,
    PING_AFTER_NS,
    PING_TIMEOUT,
    PINGED_NS,
    PONG_TIMEOUT_NS,
    SECOND,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    STEP_NS,
    T_TIMEOUTS,
    TALKS,
    TOTAL_CELLS,
    TOTALS,
    W_HEARTBEAT_NS,
    WRITE_STALL,
    WROTE_NS,
)
from gateway.tunnels.table.slice import Slice

INTERVAL_SECONDS = 1.0
TICK_NS = SECOND // 25
AHEAD_SECONDS = 600
"""How far ahead the walk looks for Pings that fall due together."""

STEPS = SECOND // STEP_NS

SPREAD_FROM = 10
"""Pings a second below which nothing is spread."""

CORRECTIONS = 16
"""How often a walk replaces rows that turn out not to be due."""

EARLIEST = 4
"""A Ping may be sent early, but not before an interval divided by this has passed."""

HABIT = 2
"""A side that spoke this often in a row before its Ping was due is not sent one early."""


Planned = tuple[int, int, int, int]
"""A Ping to send before the next walk: when it is due, row, side, ``ID`` (the row may be reused by then)."""


class Sweep:
    """The upkeep of one worker's tunnels."""

    def __init__(self, slice_: Slice, relay: Relay) -> None:
        self._slice = slice_
        self._relay = relay
        self._cells = slice_.cells
        self._plan: list[Planned] = []
        self._next = 0
        self._planned_ns = 0
        self._carried = 0.0
        self._counts = memoryview(array("q", bytes(8 * AHEAD_SECONDS * STEPS)))
        self._steps = 0  # entries of ``_counts`` in use

    # --- once a second -----------------------------------------------------------------------------------------------

    def walk(self, now: int) -> bool:
        """Handle every row that is due. :param now: ``CLOCK_MONOTONIC`` in nanoseconds. :returns: as :meth:`tick`"""
        self.tick(now)
        slice_, cells = self._slice, self._cells
        cells[slice_.block + W_HEARTBEAT_NS] = now
        carried = self._carried
        until, most = self._horizon(now)
        for _ in range(CORRECTIONS):
            if not self._correct(until):
                break
            self._carried = carried
            until, most = self._horizon(now)
        rows = due_rows(cells, slice_.first, slice_.used_rows, until)
        if len(rows) > most:
            rows = self._earliest(rows, most)
        plan: list[Planned] = []
        for row in rows:
            if cells[row + STATE] == LIVE:
                cells[row + DIRTY] = 1
                try:
                    self._look_at(row, now, until, plan)
                    self._relay.served(row)
                except Exception as error:  # one tunnel must not stop the sweep for the others
                    self._relay.fail(row, "upkeep", error)
        plan.sort()
        self._plan = plan
        self._next = 0
        self._planned_ns = now
        return self.tick(now)

    def _correct(self, until: int) -> bool:
        """Update the deadlines of rows that were heard since theirs was computed, and so are not due.

        :returns: whether there were any; other rows may take their place in this walk
        """
        cells = self._cells
        found = False
        for row in due_rows(cells, self._slice.first, self._slice.used_rows, until):
            try:
                deadline = next_deadline(cells, row)
                if deadline >= until and deadline > cells[row + DEADLINE_NS]:
                    cells[row + DEADLINE_NS] = deadline
                    found = True
            except Exception as error:
                self._relay.fail(row, "upkeep", error)
        return found

    def _earliest(self, rows: list[int], most: int) -> list[int]:
        return sorted(rows, key=lambda row: self._cells[row + DEADLINE_NS])[:most]

    def _horizon(self, now: int) -> tuple[int, int]:
        """Up to which deadline rows are handled in this walk, and how many at most."""
        self._steps = demand(self._cells, self._slice.first, self._slice.used_rows, now, self._counts, self._steps)
        total = now_due = 0
        rate = 0.0
        for step in range(self._steps):
            total += self._counts[step]
            if step < STEPS:
                rate = now_due = total
            elif self._counts[step]:
                rate = max(rate, total * STEPS / (step + 1))
        if rate <= SPREAD_FROM or rate <= now_due:
            self._carried = 0.0
            return now + SECOND, now_due
        self._carried += rate
        most = max(now_due, int(self._carried))
        self._carried -= int(self._carried)
        until, left = now, most
        for step in range(self._steps):
            until += STEP_NS
            left -= self._counts[step]
            if left <= 0:
                break
        return until, most

    def _look_at(self, row: int, now: int, until: int, plan: list[Planned]) -> None:
        """Do what is due for a row, and plan its Pings."""
        cells, relay = self._cells, self._relay
        if now >= closed_by(cells, row):
            relay.finish(row)
            return
        if now >= paced_until(cells, row):
            relay.close_in_turn(row)
        elif cells[row + CLOSING_NS]:
            pass
        elif now >= cells[row + EXPIRES_NS]:
            relay.expire(row)
        elif now >= lives_until(cells, row):
            relay.close_tunnel(row, SERVICE_RESTART, MAX_LIFETIME)
        elif now >= idle_until(cells, row):
            relay.close_tunnel(row, GOING_AWAY, IDLE)
        for side in (CLIENT, BACKEND_SIDE):
            if cells[row + STATE] == LIVE and now >= stalled_until(cells, row, side):
                relay.give_up(row, side, GOING_AWAY, WRITE_STALL)
        if cells[row + STATE] != LIVE:
            return
        if not cells[row + CLOSING_NS]:
            if cells[row + EXPIRES_NS] < now + SECOND:
                relay.wake_at(cells[row + EXPIRES_NS], row)
            for side in (CLIENT, BACKEND_SIDE):
                due = keepalive_due(cells, row, side)
                if due < until:
                    self._keep_alive(row, side, due, now, plan)
                    if cells[row + STATE] != LIVE or cells[row + CLOSING_NS]:
                        break
        if cells[row + STATE] == LIVE:
            cells[row + DEADLINE_NS] = next_deadline(cells, row)

    def _keep_alive(self, row: int, side: int, due: int, now: int, plan: list[Planned]) -> None:
        """A side's Ping is due, or its answer is overdue."""
        cells = self._cells
        here = row + SIDE_0 + side * SIDE_CELLS
        if not awaits_answer(cells, row, side):
            interval = cells[here + PING_AFTER_NS]
            # A side that kept speaking before its Ping was due will probably do so again.
            early = now >= due - interval + interval // EARLIEST and cells[here + TALKS] < HABIT
            if early or due < now + SECOND:
                plan.append((due, row, side, cells[row + ID]))
        elif now >= due:
            if has_unread(cells[here + FD]):
                pass  # it is alive; the relay has yet to read its bytes
            elif is_taking(
                cells[here + FD], cells[here + PONG_TIMEOUT_NS], cells[here + PINGED_NS] > cells[here + WROTE_NS]
            ):
                cells[here + PINGED_NS] = now  # the Ping is in a send queue that is moving: wait as long again
            else:
                cells[cells[row + TOTALS] + side * TOTAL_CELLS + T_TIMEOUTS] += 1
                self._relay.give_up(
                    row, side, GOING_AWAY if side == CLIENT else cells[row + ON_LOSS_CODE], PING_TIMEOUT
                )

    # --- in between ---------------------------------------------------------------------------------------------------

    def tick(self, now: int) -> bool:
        """Send the Pings whose time has come; True if more follow before the next walk.

        Call it every ``TICK_NS`` while it returns True.
        """
        plan = self._plan
        left = len(plan)
        at = self._next
        if left > SPREAD_FROM:
            at = max(at, left * (now - self._planned_ns) // SECOND)
        while at < left and plan[at][0] <= now + TICK_NS:
            at += 1
        self._send(min(at, left), now)
        return self._next < left

    def _send(self, end: int, now: int) -> None:
        cells = self._cells
        for due, row, side, tunnel in self._plan[self._next : end]:
            if cells[row + ID] == tunnel and cells[row + STATE] == LIVE:
                try:
                    self._ping(row, side, due, now)
                except Exception as error:
                    self._relay.fail(row, "keepalive", error)
        self._next = max(self._next, end)

    def _ping(self, row: int, side: int, due: int, now: int) -> None:
        """Send a planned Ping, if it is still due."""
        cells = self._cells
        deferred = keepalive_due(cells, row, side) > due  # the side spoke since, or a Ping is unanswered
        sent = not deferred and self._relay.ping(row, side)
        if cells[row + STATE] != LIVE:
            return
        deadline = next_deadline(cells, row)
        if sent:
            # An answer within a second ends no silence, so that it does not move the deadline itself.
            deadline = min(deadline, now + cells[row + SIDE_0 + side * SIDE_CELLS + PING_AFTER_NS])
        elif not deferred:
            deadline = max(deadline, now + SECOND)
        cells[row + DEADLINE_NS] = deadline


def has_unread(fd: int) -> bool:
    """Whether a connection has bytes that were not read yet."""
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    except OSError:
        return False
    return bool(size > 0)


def is_taking(fd: int, within_ns: int, again: bool) -> bool:
    """Whether a connection has bytes in flight that its peer is acknowledging: it may be slow, but it is not dead.

    A Unix socket does not say when its peer last took bytes; it gets one more ``within_ns``.

    :param within_ns: how long ago the latest acknowledgement may be
    :param again: whether it already had that once
    """
    try:
        (queued,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
        if not queued:
            return False
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family == socket.AF_UNIX:
                return not again
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        (acknowledged_ms_ago,) = _TCP_INFO.unpack(info)
    except (OSError, struct.error):
        return False
    return bool(acknowledged_ms_ago * 1_000_000 < within_ns)


_TCP_INFO = struct.Struct("@56xI")  # struct tcp_info of linux/tcp.h, up to tcpi_last_ack_recv


def set_deadline(cells: memoryview[int], row: int) -> None:
    """Write the deadline of a row."""
    cells[row + DEADLINE_NS] = min(next_deadline(cells, row), NEVER)
