"""Who ended a tunnel, why, and after how long a silence: a table of cases, and that the relay observes what it needs.

Each case is about one side, *it*, and holds for either side being it. What is not said of a side is 0.
"""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
import time
from array import array
from typing import NamedTuple

import pytest

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CAUSE,
    CAUSES,
    CLIENT,
    CLOSE_FRAME,
    CLOSING_NS,
    DRAIN,
    END_QUEUED,
    FD,
    FIN,
    GATEWAY,
    IDLE,
    INITIATOR,
    INITIATORS,
    MAX_LIFETIME,
    PING_TIMEOUT,
    RESET,
    ROW_CELLS,
    SIDES,
    WORKER_LOST,
    WRITE_STALL,
)
from gateway.tunnels.upkeep.attribution import NEITHER, Attribution, Side, attribute, attribute_row
from tests.support.deadline import SCALE
from tests.support.frames import BINARY, PONG, TEXT

from .harness import CLOSE_WITHIN, NS, End, Rig, Tunnel
from .wire import closing, frame

BOTH = (CLIENT, BACKEND_SIDE)
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
IT, OTHER, NOBODY = "it", "other", "nobody"

LATE_SECONDS = 1.9 * SCALE
"""That a machine that does much else may be late. Less than any two silences here differ by."""

ACKNOWLEDGED_SECONDS = 0.1
"""What is still not acknowledged then waits for the reader: acknowledgements are delayed by 40 ms (tcp(7))."""

both_sides = pytest.mark.parametrize("side", BOTH, ids=SIDES)


def seen(*, idle: float = 0, quiet: float = 0, unanswered: float = 0, closed: bool = False, queued: int = 0) -> Side:
    """What was observed of a side. Times are in seconds."""
    return Side(closed, int(idle * NS), int(quiet * NS), int(unanswered * NS), queued)


class Case(NamedTuple):
    """What the relay saw, and what it means."""

    initiator: str
    """``it``, ``other`` or ``gateway``, as noted when the end began"""
    cause: int
    about: str
    it: Side
    other: Side
    becomes: int
    """the cause that is told"""
    cut: str = NOBODY
    silence: float = 0
    """seconds"""
    exact: bool = False
    last: str = IT


JUST_NOW = seen()
BEFORE = seen(idle=1)
CASES = {
    # Goodbyes: nobody was cut, however long it had been silent.
    "it closes": Case(IT, CLOSE_FRAME, IT, seen(closed=True), BEFORE, CLOSE_FRAME),
    "it closes after a minute": Case(
        IT, CLOSE_FRAME, IT, seen(closed=True), seen(idle=60, quiet=60), CLOSE_FRAME, last=IT
    ),
    "it closes, the other answers": Case(
        IT, CLOSE_FRAME, IT, seen(closed=True), seen(idle=1, closed=True), CLOSE_FRAME
    ),
    "it closes and resets": Case(IT, CLOSE_FRAME, IT, seen(closed=True, queued=90), BEFORE, CLOSE_FRAME),
    # FIN without a Close frame: the side's program ended, or something on the path did it.
    "it sends FIN in the middle of things": Case(
        IT, FIN, IT, seen(idle=0.2, quiet=0.1), JUST_NOW, FIN, IT, 0.1, True, OTHER
    ),
    "it sends FIN after a minute's silence": Case(
        IT, FIN, IT, seen(idle=60, quiet=60), seen(idle=75, quiet=75), FIN, IT, 60, True
    ),
    "it sends FIN; it was sent things, and said nothing itself": Case(
        IT, FIN, IT, seen(idle=300, quiet=60), seen(idle=60, quiet=60), FIN, IT, 60, True, OTHER
    ),
    "it sends FIN a minute after a Ping that it has not answered": Case(
        IT, FIN, IT, seen(idle=85, quiet=60, unanswered=25), seen(idle=9), FIN, IT, 60, True, OTHER
    ),
    "it sends FIN, and closes later on": Case(
        IT, FIN, IT, seen(idle=5, quiet=5, closed=True), seen(idle=6), FIN, IT, 5, True
    ),
    # Resets that come of themselves.
    "it resets in the middle of things": Case(
        IT, RESET, IT, seen(idle=0.3, quiet=0.3), seen(idle=2), RESET, IT, 0.3, True
    ),
    "it resets after five seconds' silence": Case(
        IT, RESET, IT, seen(idle=5, quiet=5), seen(idle=9), RESET, IT, 5, True
    ),
    "it resets five seconds after what it was sent last": Case(
        IT, RESET, IT, seen(idle=60, quiet=5), seen(idle=5), RESET, IT, 5, True, OTHER
    ),
    "it resets five seconds after a Ping that it has not answered": Case(
        IT, RESET, IT, seen(idle=30, quiet=5, unanswered=25), seen(idle=40), RESET, IT, 5, True
    ),
    # Resets in answer to something: the connection was gone before, at some moment of the silence.
    "a Ping after 25 seconds is met with a reset": Case(
        IT, RESET, IT, seen(idle=25.1, quiet=0.1, unanswered=25), seen(idle=30), RESET, IT, 25, False
    ),
    "data after an hour is met with a reset": Case(
        IT, RESET, IT, seen(idle=3600.1, quiet=0, unanswered=3600), JUST_NOW, RESET, IT, 3600, False, OTHER
    ),
    "sending fails, and bytes are left": Case(
        IT, RESET, IT, seen(idle=60, unanswered=60, queued=512), JUST_NOW, RESET, IT, 60, False, OTHER
    ),
    # A reset that came of our sending on, to a side whose Close frame was on its way to us.
    "it resets, and its Close frame is read after that": Case(
        IT, RESET, IT, seen(closed=True, unanswered=25), BEFORE, CLOSE_FRAME
    ),
    "it resets, and its Close frame is read, after a silence": Case(
        IT, RESET, IT, seen(closed=True, idle=60, quiet=60), seen(idle=61), CLOSE_FRAME
    ),
    # The other's Close frame makes no goodbye of its reset.
    "it resets, the other has closed": Case(
        IT, RESET, IT, seen(idle=4, quiet=4), seen(idle=9, closed=True), RESET, IT, 4, True
    ),
    # Sides that are found dead.
    "it answers no Ping": Case(
        "gateway", PING_TIMEOUT, IT, seen(idle=45, quiet=20, unanswered=25), seen(idle=50), PING_TIMEOUT, IT, 25, False
    ),
    "it answers no Ping, while the other talks on": Case(
        "gateway",
        PING_TIMEOUT,
        IT,
        seen(idle=45, quiet=0, unanswered=25),
        seen(idle=0),
        PING_TIMEOUT,
        IT,
        25,
        False,
        OTHER,
    ),
    "it answers no Ping that was sent after less than a second": Case(
        "gateway", PING_TIMEOUT, IT, seen(idle=20.5, quiet=20), seen(idle=30), PING_TIMEOUT, IT, 20, False
    ),
    "it acknowledges nothing for a minute": Case(
        "gateway",
        WRITE_STALL,
        IT,
        seen(idle=90, quiet=60, unanswered=30),
        seen(idle=60),
        WRITE_STALL,
        IT,
        30,
        False,
        OTHER,
    ),
    "it does not read: a slow or stuck program, no cut": Case(
        "gateway", WRITE_STALL, IT, seen(idle=90, queued=65536), JUST_NOW, WRITE_STALL, last=OTHER
    ),
    # The gateway's own doing.
    "idle": Case("gateway", IDLE, NOBODY, seen(idle=600, quiet=600), seen(idle=900, quiet=600), IDLE),
    "max_lifetime": Case("gateway", MAX_LIFETIME, NOBODY, seen(idle=3), seen(idle=1), MAX_LIFETIME, last=OTHER),
    "drain": Case("gateway", DRAIN, NOBODY, seen(idle=3, closed=True), seen(idle=5, closed=True), DRAIN),
    "its worker died": Case("gateway", WORKER_LOST, NOBODY, seen(idle=3), seen(idle=5), WORKER_LOST),
}


@both_sides
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_said_of_an_end(case: Case, side: int) -> None:
    number = {IT: side, OTHER: 1 - side, NOBODY: NEITHER, "gateway": GATEWAY}
    sides = (case.it, case.other) if side == CLIENT else (case.other, case.it)
    said = attribute(number[case.initiator], case.cause, number[case.about], sides)
    assert (said.initiator, said.cause, said.cut) == (number[case.initiator], case.becomes, number[case.cut])
    assert (said.silence_ns, said.exact) == (int(case.silence * NS), case.exact)
    assert (said.last_from, said.sides) == (number[case.last], sides)


def test_of_two_that_were_heard_at_once_the_client_is_last() -> None:
    sides = seen(idle=5), seen(idle=5)
    assert attribute(GATEWAY, IDLE, NEITHER, sides).last_from == CLIENT


def test_there_is_a_case_for_every_cause_there_is() -> None:
    later = {"limit", "protocol_error"}
    assert {CAUSES[case.cause] for case in CASES.values()} == set(CAUSES) - later


# --- what the relay takes down ----------------------------------------------------------------------------------------


def send(rig: Rig, tunnel: Tunnel, side: int, data: bytes) -> None:
    """One side sends, the other receives."""
    peer = tunnel.peer(1 - side)
    before = len(peer.received)
    tunnel.peer(side).send(data)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= before + len(data), "the bytes")


def ended(rig: Rig, tunnel: Tunnel, side: int, way: str) -> End:
    """A side ends in one of three ways, and the other goes along."""
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    getattr(near, way)()
    rig.until(far.has_ended, "the end")
    far.close()
    return rig.end()


def assert_idle(decided: Attribution, client: float, backend: float) -> None:
    """For how long the sides have been silent, in seconds."""
    for side, silence in zip(decided.sides, (client, backend), strict=True):
        assert silence * NS <= side.idle_ns < (silence + LATE_SECONDS) * NS


def assert_cut(end: End, side: int, cause: int, silence: float, exact: bool) -> None:
    said = end.decided
    assert (INITIATORS[said.initiator], CAUSES[said.cause]) == (SIDES[side], CAUSES[cause])
    assert said.cut == side
    assert silence * NS <= said.silence_ns < (silence + LATE_SECONDS) * NS
    assert said.exact == exact


@both_sides
@pytest.mark.parametrize(("way", "cause"), [("half_close", FIN), ("close", FIN), ("reset", RESET)])
@pytest.mark.parametrize("seconds", [0, 5, 3600])
def test_a_side_that_is_cut_of_itself(rig: Rig, side: int, way: str, cause: int, seconds: int) -> None:
    tunnel = rig.open()
    send(rig, tunnel, side, HELLO[side])
    tunnel.age(seconds * NS)
    end = ended(rig, tunnel, side, way)
    assert_cut(end, side, cause, seconds, True)
    assert end.decided.last_from == side
    assert not end.decided.sides[side].closed


@both_sides
def test_traffic_of_the_other_side_keeps_the_connection_busy(rig: Rig, side: int) -> None:
    """It is cut five seconds after what was sent to it, having said nothing for a minute itself."""
    tunnel = rig.open()
    tunnel.age(55 * NS)
    send(rig, tunnel, 1 - side, HELLO[1 - side])
    tunnel.age(5 * NS)
    end = ended(rig, tunnel, side, "half_close")
    assert_cut(end, side, FIN, 5, True)
    assert end.decided.last_from == 1 - side
    assert_idle(end.decided, *((60, 5) if side == CLIENT else (5, 60)))


@both_sides
def test_a_ping_keeps_it_busy_too_and_its_pong(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.age(30 * NS)
    assert rig.relay.ping(tunnel.row, side)
    peer = tunnel.peer(side)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) == (14 if side == BACKEND_SIDE else 10), "the Ping")
    payload = bytes(peer.received[-8:])
    if side == BACKEND_SIDE:
        mask = peer.received[2:6]
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    tunnel.age(2 * NS)
    peer.send(frame(PONG, payload, masked=side == CLIENT))
    rig.until(lambda: rig.totals(side).pongs, "the Pong")
    tunnel.age(7 * NS)
    end = ended(rig, tunnel, side, "half_close")
    assert_cut(end, side, FIN, 7, True)
    assert_idle(end.decided, *((7, 39) if side == CLIENT else (39, 7)))
    assert end.decided.sides[side].unanswered_ns == 0


@both_sides
@pytest.mark.parametrize("what", ["data", "a Ping"])
def test_a_connection_that_turns_out_to_be_gone_when_something_is_sent(rig: Rig, side: int, what: str) -> None:
    tunnel = rig.open()
    tunnel.age(25 * NS)
    tunnel.peer(side).reset()
    if what == "data":
        rig.relay.feed(tunnel.row, 1 - side, HELLO[1 - side])
    else:
        rig.relay.ping(tunnel.row, side)
    rig.until(tunnel.peer(1 - side).has_ended, "the end")
    tunnel.peer(1 - side).close()
    assert_cut(rig.end(), side, RESET, 25, False)


@both_sides
def test_a_reset_in_answer_to_what_was_sent_after_a_silence(rig: Rig, side: int) -> None:
    """The kernel takes what is sent to a connection that is gone; the reset comes a moment later."""
    tunnel = rig.open()
    tunnel.age(300 * NS)
    send(rig, tunnel, 1 - side, HELLO[1 - side])
    end = ended(rig, tunnel, side, "reset")
    assert_cut(end, side, RESET, 300, False)


@both_sides
def test_what_was_answered_was_no_cut(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.age(300 * NS)
    send(rig, tunnel, 1 - side, HELLO[1 - side])
    send(rig, tunnel, side, HELLO[side])
    end = ended(rig, tunnel, side, "reset")
    assert_cut(end, side, RESET, 0, True)


@both_sides
def test_the_longest_of_several_silences_counts(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    for seconds in (20, 40, 10):
        tunnel.age(seconds * NS)
        send(rig, tunnel, 1 - side, HELLO[1 - side])
    end = ended(rig, tunnel, side, "reset")
    assert_cut(end, side, RESET, 40, False)


@both_sides
def test_a_close_frame_that_was_unread_when_sending_failed(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.age(60 * NS)
    rig.relay.write(tunnel.row, side, HELLO[1 - side])  # so that closing resets
    tunnel.peer(side).send(closing(1000, masked=side == CLIENT))
    tunnel.peer(side).close()
    rig.relay.feed(tunnel.row, 1 - side, HELLO[1 - side])
    rig.until(tunnel.peer(1 - side).has_ended, "the end")
    tunnel.peer(1 - side).close()
    said = rig.end().decided
    assert (said.initiator, said.cause, said.cut) == (side, CLOSE_FRAME, NEITHER)
    assert said.sides[side].closed


@both_sides
def test_what_comes_after_the_end_began_changes_nothing_of_it(rig: Rig, side: int) -> None:
    """The side that is left talks on and closes late."""
    tunnel = rig.open()
    tunnel.age(5 * NS)
    tunnel.peer(side).half_close()
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    for _ in range(3):
        tunnel.age(2 * NS)
        send(rig, tunnel, 1 - side, HELLO[1 - side])
    tunnel.peer(1 - side).close()
    end = rig.end()
    assert_cut(end, side, FIN, 5, True)
    assert_idle(end.decided, 5, 5)


@both_sides
def test_a_reader_that_takes_nothing_was_not_cut(rig: Rig, side: int) -> None:
    tunnel = rig.open(buffers=32 * 1024, write_stall=60 * NS)
    rig.stall(tunnel.peer(1 - side), frame(BINARY, bytes(5000), masked=side == BACKEND_SIDE))
    tunnel.age(60 * NS)
    queued = tunnel.pending[side]
    rig.sweep(rig.relay.now)
    tunnel.age(CLOSE_WITHIN)
    rig.sweep(rig.relay.now + NS)
    said = rig.end().decided
    assert (said.initiator, said.cause, said.cut) == (GATEWAY, WRITE_STALL, NEITHER)
    assert said.sides[side].queued_bytes == queued > 0


def unacknowledged(fd: int) -> int:
    """Bytes in a socket's send queue (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@both_sides
@pytest.mark.parametrize("finds_out", ["reading", "sending"])
def test_a_side_that_acknowledges_nothing_was_cut(rig: Rig, side: int, finds_out: str) -> None:
    """The kernel gives the connection up (TCP_USER_TIMEOUT) while nothing is in the gateway's hands."""
    tunnel = rig.open(buffers=32 * 1024)
    tunnel.age(30 * NS)
    send(rig, tunnel, 1 - side, HELLO[1 - side])  # after a silence, and never answered
    peer = tunnel.peer(side)

    def fill_the_kernels_buffer() -> bool:
        """The peer may have made so much room meanwhile that the kernel's buffer is empty as well: once more, then."""
        while not tunnel.pending[side]:
            rig.relay.write(tunnel.row, side, HELLO[1 - side])
        rig.until(lambda: peer.read(limit=2000) and not tunnel.pending[side], "what is pending to go")
        rig.rest()
        time.sleep(ACKNOWLEDGED_SECONDS)
        return unacknowledged(tunnel.side(side, FD)) > 0

    rig.until(fill_the_kernels_buffer, "bytes that are not acknowledged")
    with socket.socket(fileno=tunnel.side(side, FD)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
        sock.detach()
    if finds_out == "reading":
        rig.until(lambda: tunnel.cell(CLOSING_NS), "the kernel to give up")
    else:
        lost = select.POLLERR | select.POLLHUP
        rig.until(lambda: any(said & lost for _, said in rig.waiting()), "the kernel to give up", turn=None)
        rig.relay.feed(tunnel.row, 1 - side, HELLO[1 - side])
    other = tunnel.peer(1 - side)
    rig.until(other.has_ended, "FIN")
    assert other.received == closing(1001, masked=False) if side == BACKEND_SIDE else len(other.received) == 8
    other.send(closing(1001, masked=side == BACKEND_SIDE))
    said = rig.end().decided
    assert (said.initiator, said.cause) == (GATEWAY, WRITE_STALL)
    assert (said.cut, said.exact) == (side, False)
    assert 30 * NS <= said.silence_ns < (31 + LATE_SECONDS) * NS


@pytest.mark.parametrize(("cause", "code"), [(DRAIN, 1012), (IDLE, 1001), (MAX_LIFETIME, 1012)])
def test_ends_of_the_gateways_own_cut_nobody(rig: Rig, cause: int, code: int) -> None:
    tunnel = rig.open()
    tunnel.age(60 * NS)
    rig.relay.close_tunnel(tunnel.row, code, cause)
    for side in BOTH:
        tunnel.peer(side).send(closing(code, masked=side == CLIENT))
    said = rig.end().decided
    assert (said.initiator, said.cause, said.cut, said.silence_ns) == (GATEWAY, cause, NEITHER, 0)
    assert [one.closed for one in said.sides] == [True, True]
    assert_idle(said, 60, 60)


def test_a_row_whose_worker_died(rig: Rig) -> None:
    """Nobody was there to take anything down: silences are as of now."""
    tunnel = rig.open()
    send(rig, tunnel, BACKEND_SIDE, HELLO[BACKEND_SIDE])
    tunnel.age(8 * NS)
    cells = array("q", rig.cells[tunnel.row : tunnel.row + ROW_CELLS])
    cells[INITIATOR], cells[CAUSE] = GATEWAY, WORKER_LOST
    said = attribute_row(memoryview(cells), rig.relay.now)
    assert (said.initiator, said.cause, said.cut) == (GATEWAY, WORKER_LOST, NEITHER)
    assert_idle(said, 8, 8)
    assert said.last_from == BACKEND_SIDE
    assert tunnel.side(CLIENT, END_QUEUED) == 0
