"""TLS connections outlive the process that relays them: after a crash, in upgrades, when the supervisor dies."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from gateway.protocol.tls.state import HALF, OUT_CLOSED, OUT_SEQ, SESSION_CELLS
from gateway.tunnels.moving import parcel
from gateway.tunnels.moving.final_close import end_all
from gateway.tunnels.moving.handback import hand_back
from gateway.tunnels.moving.mirrors import Mirrors
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CELL_BYTES,
    CLIENT,
    COUNTED,
    DIRTY,
    RELEASED,
    SESSIONS_CELLS,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    TLS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.slots import settle
from gateway.tunnels.table.table import Table
from tests.support.frames import BINARY, CONTINUATION, PONG, TEXT

from .harness import Rig, Tunnel
from .other_layouts import other, translated
from .pair import Pair
from .states import BOTH, BUFFERS, CLOSE, FLOOD, HELLO, STATES, cut_off, stalled, used
from .test_tls_ends import own, tls
from .tls_peers import BOTH_NEW, BOTH_OLD, KINDS, TLS12, TLS13, Sides, with_own_records
from .transition import NAMES, Begin
from .wire import close_frames, frame

MIXED = Sides(TLS13, TLS12)
STREAMS = {
    side: b"".join(
        frame(opcode, Random(size).randbytes(size), masked=side == CLIENT, fin=fin)
        for opcode, size, fin in ((TEXT, 10, True), (BINARY, 300, False), (PONG, 3, True), (CONTINUATION, 70_000, True))
    )
    for side in BOTH
}


def sessions(table: Table, row: int) -> list[int]:
    """Without what is about one process."""
    at = table.session_at(row, 0)
    found = table.cells[at : at + SESSIONS_CELLS].tolist()
    found[HALF] = found[SESSION_CELLS + HALF] = 0
    return found


def both_go_on(rig: Rig, tunnel: Tunnel) -> None:
    for side in BOTH:
        before = len(tunnel.peer(1 - side).received)
        tunnel.peer(side).send(HELLO[side])
        rig.until(
            lambda side=side, before=before: (
                tunnel.peer(1 - side).read() or len(tunnel.peer(1 - side).received) > before
            ),
            "a message",
        )
        assert tunnel.peer(1 - side).received[before:] == HELLO[side]


def half_of_a_record(rig: Rig, tunnel: Tunnel) -> tuple[bytes, bytes]:
    """Each side has sent the half of one. :returns: what is left of the client's, and of the backend's"""
    wires = [own(tunnel, side).seal(HELLO[side]) for side in BOTH]
    for side in BOTH:
        tls(tunnel, side).put(wires[side][:11])
    rig.rest()
    assert tunnel.dirty
    return wires[CLIENT][11:], wires[BACKEND_SIDE][11:]


# --- every state ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bring_about", [*STATES, cut_off])
def test_a_successor_has_the_same_keys(rig: Rig, bring_about: Callable[[Rig, Tunnel], None]) -> None:
    tunnel = rig.open(buffers=BUFFERS, tls=MIXED, engines=with_own_records)
    bring_about(rig, tunnel)
    rig.rest()
    before = sessions(rig.table, tunnel.row)
    assert any(before)
    assert rig.succeed() == (1, 0, 0)
    assert sessions(rig.table, tunnel.row) == before
    rig.assert_live(tunnel)


@pytest.mark.parametrize("bring_about", [stalled, *STATES, cut_off])
def test_a_new_worker_has_the_same_keys_and_the_old_one_none(
    pair: Pair, bring_about: Callable[[Rig, Tunnel], None]
) -> None:
    rig = pair.rig
    tunnel = rig.open(buffers=BUFFERS, tls=MIXED, engines=with_own_records)
    bring_about(rig, tunnel)
    before = sessions(rig.table, tunnel.row)
    assert pair.move() == (1, [])
    (row,) = rig.table.rows()
    assert sessions(rig.table, row) == before
    for side in BOTH:
        assert rig.cells[row + SIDE_0 + side * SIDE_CELLS + TLS] == rig.table.session_at(row, side)
    assert not any(sessions(rig.table, tunnel.row))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bring_about", [stalled, used, *STATES[:3], cut_off])
def test_another_layout_has_the_same_keys(
    transition: Begin, bring_about: Callable[[Rig, Tunnel], None], seed: int
) -> None:
    rig = Rig()
    tunnel = rig.open(buffers=BUFFERS, tls=MIXED, engines=with_own_records)
    made = transition(rig, seed)
    bring_about(rig, tunnel)
    before = sessions(rig.table, tunnel.row)
    made.write()
    made.mirrors.refresh()
    (mirrored,) = made.table.rows()
    assert not any(sessions(made.table, mirrored)), "who only looks at it needs no keys"
    assert made.move() == (1, [])
    (row,) = made.table.rows(1)
    assert sessions(made.table, row) == before
    made.write()
    made.mirrors.refresh()
    assert not any(sessions(made.table, mirrored))


# --- streams ----------------------------------------------------------------------------------------------------------


def goes_on(rig: Rig, tunnel: Tunnel, move: Callable[[], object], often: int = 6) -> None:
    """Both sides send frames in pieces, and the tunnel moves after each of them."""
    heard = dict.fromkeys(BOTH, b"")
    for n in range(often):
        for side in BOTH:
            piece = STREAMS[side][len(heard[side]) : len(STREAMS[side]) * (n + 1) // often]
            tunnel.peer(side).send(piece)
            heard[side] += piece
            rig.until(lambda side=side: tunnel.peer(1 - side).has(heard[side]), "a piece")
        rig.rest()
        move()
    for side in BOTH:
        tunnel.peer(side).send(CLOSE[side])
        rig.until(lambda side=side: tunnel.peer(1 - side).has(STREAMS[side] + CLOSE[side]), "the Close frame")
    tunnel.backend.half_close()
    rig.until(tunnel.client.has_ended, "the end")
    assert tunnel.client.end == "fin"
    tunnel.client.half_close()


@pytest.mark.parametrize("kind", KINDS)
def test_workers_that_die(rig: Rig, kind: Sides) -> None:
    """OpenSSL at the other ends notices nothing."""
    tunnel = rig.open(tls=kind)

    def die() -> None:
        assert rig.succeed() == (1, 0, 0)

    goes_on(rig, tunnel, die)
    assert rig.end().cause == "close_frame"
    for side in BOTH:
        assert rig.totals(side).frames == {0: 1, 1: 1, 2: 1, 8: 1, 10: 1}


@pytest.mark.parametrize("kind", KINDS)
def test_upgrades(pair: Pair, kind: Sides) -> None:
    rig = pair.rig
    tunnel = rig.open(tls=kind)

    def upgrade() -> None:
        if rig.poller is not pair.poller:
            assert pair.move() == (1, [])
            pair.go_on_with_the_new_one()

    goes_on(rig, tunnel, upgrade)


@pytest.mark.parametrize("kind", KINDS)
def test_the_supervisors_death(rig: Rig, kind: Sides) -> None:
    tunnel = rig.open(tls=kind)

    def hand_over() -> None:
        assert hand_back(rig.slice, rig.relay, 1) == 0
        assert rig.succeed() == (1, 0, 0)

    goes_on(rig, tunnel, hand_over)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_to_another_layout(transition: Begin, kind: Sides, seed: int) -> None:
    rig = Rig()
    tunnel = rig.open(tls=kind)
    made = transition(rig, seed)
    used(rig, tunnel)
    rig.rest()
    assert made.move() == (1, [])
    made.go_on_with_the_new_one()
    both_go_on(rig, tunnel)


def test_to_the_successor_of_a_worker_of_another_layout(rig: Rig) -> None:
    """The table of the dead worker is converted, keys and all."""
    tunnel = rig.open(tls=BOTH_NEW)
    used(rig, tunnel)
    rig.rest()
    theirs, default = other(rig.table.description, Random(5), drop=False)
    mirrors = Mirrors.inherit(translated(rig.table, theirs, default, NAMES), 16, lambda: NAMES)
    before, rig.table, rig.cells = rig.table, mirrors.table, mirrors.table.cells
    (row,) = rig.table.rows()
    assert sessions(rig.table, row) == sessions(before, tunnel.row)
    rig.slice = Slice(rig.table, 0)
    tunnel.row = row
    assert rig.succeed() == (1, 0, 0)
    both_go_on(rig, tunnel)
    before.unmap()


# --- what is in a process's hands -------------------------------------------------------------------------------------


def test_half_a_record_is_lost_with_its_worker(rig: Rig) -> None:
    tunnel = rig.open(tls=BOTH_NEW, engines=with_own_records)
    other_one = rig.open(tls=BOTH_NEW, engines=with_own_records)
    half_of_a_record(rig, tunnel)
    assert rig.succeed() == (1, 1, 0)
    assert rig.end().cause == "worker_lost"
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end")
        assert not tls(tunnel, side).closed
    both_go_on(rig, other_one)


@pytest.mark.parametrize("how", ["pair", "layout"])
def test_half_a_record_moves_in_an_upgrade(transition: Begin, how: str) -> None:
    rig = Rig()
    tunnel = rig.open(tls=BOTH_OLD, engines=with_own_records)
    made = transition(rig) if how == "layout" else Pair(rig)
    rest, rest_of_backend = half_of_a_record(rig, tunnel)
    assert made.move() == (1, [])
    made.go_on_with_the_new_one()
    (row,) = rig.table.rows()
    assert rig.cells[row + DIRTY]
    tls(tunnel, BACKEND_SIDE).put(rest_of_backend)
    tls(tunnel, CLIENT).put(rest)
    for side in BOTH:
        rig.until(lambda side=side: tunnel.peer(1 - side).has(HELLO[side]), "a message")
    rig.rest()
    assert not rig.cells[row + DIRTY]
    if isinstance(made, Pair):
        made.old[0].close()
        made.poller.relay.finish(row)
        del made
        rig.close()


def test_half_a_record_that_nobody_takes_stays(pair: Pair) -> None:
    rig = pair.rig
    tunnel = rig.open(tls=BOTH_OLD, engines=with_own_records)
    rest, _ = half_of_a_record(rig, tunnel)
    assert pair.move(keep=False) == (0, [tunnel.id])
    tls(tunnel, CLIENT).put(rest)
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "a message")


def test_half_a_record_is_completed_when_the_supervisor_dies(rig: Rig) -> None:
    """And nothing behind it is read."""
    tunnel = rig.open(tls=BOTH_NEW, engines=with_own_records)
    rest, rest_of_backend = half_of_a_record(rig, tunnel)
    behind = own(tunnel, CLIENT).seal(HELLO[CLIENT] * 2)

    def send_rest() -> None:
        for at in range(0, len(rest), 5):
            tls(tunnel, CLIENT).put(rest[at : at + 5])
        tls(tunnel, CLIENT).put(behind)
        tls(tunnel, BACKEND_SIDE).put(rest_of_backend)

    thread = threading.Thread(target=send_rest)
    thread.start()
    assert hand_back(rig.slice, rig.relay, 10) == 0
    thread.join()
    assert not tunnel.dirty
    assert tunnel.backend.has(HELLO[CLIENT])
    assert tunnel.client.has(HELLO[BACKEND_SIDE])
    assert rig.succeed() == (1, 0, 0)
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT] * 3), "what was behind it")


def test_half_a_record_whose_rest_does_not_come_is_lost(rig: Rig) -> None:
    tunnel = rig.open(tls=BOTH_NEW, engines=with_own_records)
    half_of_a_record(rig, tunnel)
    assert hand_back(rig.slice, rig.relay, 0.1) == 1
    assert rig.succeed() == (0, 1, 0)


@pytest.mark.parametrize("how", ["pair", "layout"])
def test_sealed_bytes_that_are_pending_go_along(transition: Begin, how: str) -> None:
    rig = Rig()
    tunnel = rig.open(buffers=BUFFERS, tls=BOTH_NEW)
    made = transition(rig) if how == "layout" else Pair(rig)
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    assert tunnel.pending[CLIENT]
    assert made.move() == (1, [])
    made.go_on_with_the_new_one()
    rig.until(lambda: tunnel.client.read() >= 0 and len(tunnel.client.received) == len(sent), "all of it")
    assert tunnel.client.has(sent)
    tunnel.client.send(HELLO[CLIENT])
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "the other direction")
    if isinstance(made, Pair):
        (row,) = rig.table.rows()
        made.old[0].close()
        made.poller.relay.finish(row)
        del made
        rig.close()


def test_a_parcel_with_halves() -> None:
    tunnels = [
        parcel.Tunnel(1, 100, b"abc", b""),
        parcel.Tunnel(2, 200, b"", b"de", b"half", b""),
        parcel.Tunnel(3, 300, b"", b"", b"x" * 17, b"y"),
    ]
    fd = parcel.pack(tunnels)
    assert parcel.unpack(fd) == tunnels
    size = os.fstat(fd).st_size
    halves = sum(len(each.client_half + each.backend_half) for each in tunnels)
    os.close(fd)
    for cut in range(size - halves - 6 * CELL_BYTES + 1, size):
        fd = parcel.pack(tunnels)
        os.truncate(fd, cut)
        with pytest.raises(ValueError, match="truncated"):
            parcel.unpack(fd)
        os.close(fd)


# --- tunnels that nobody can resume -----------------------------------------------------------------------------------


def end(rig: Rig, tunnel: Tunnel, tables: list[int]) -> int:
    kept = [(tunnel.id, (os.dup(rig.kept[tunnel.id][0]), os.dup(rig.kept[tunnel.id][1])))]
    return end_all(kept, tables)


@pytest.mark.parametrize("kind", KINDS)
def test_a_close_frame_for_tunnels_that_nobody_can_resume(rig: Rig, kind: Sides) -> None:
    """Sealed with what the row has; the table says that it is used up before it is sent."""
    tunnel = rig.open(tls=kind)
    used(rig, tunnel)
    rig.relay.release(tunnel.row)
    before = sessions(rig.table, tunnel.row)
    assert end(rig, tunnel, [rig.table.fd]) == 2
    after = sessions(rig.table, tunnel.row)
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end", turn=None)
        received = bytes(tunnel.peer(side).received[len(HELLO[1 - side]) :])
        assert close_frames(received) == [(1012, side == BACKEND_SIDE)]
        at = side * SESSION_CELLS
        if kind[side] is not None:
            assert tls(tunnel, side).closed
            assert after[at + OUT_SEQ] == before[at + OUT_SEQ] + 2
            assert after[at + OUT_CLOSED] == 1
        else:
            assert not any(after[at : at + SESSION_CELLS])
    assert end(rig, tunnel, [rig.table.fd]) == 0
    assert sessions(rig.table, tunnel.row) == after, "nothing is sealed behind close_notify"


def test_a_close_frame_by_the_table_of_another_layout(rig: Rig) -> None:
    tunnel = rig.open(tls=MIXED)
    used(rig, tunnel)
    rig.relay.release(tunnel.row)
    theirs, default = other(rig.table.description, Random(3))
    fd = translated(rig.table, theirs, default)
    assert end(rig, tunnel, [fd]) == 2
    os.close(fd)
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end", turn=None)
        assert tls(tunnel, side).closed


def test_no_close_frame_where_it_is_not_known_how_to_seal_it(transition: Begin) -> None:
    """In a mirror there are no keys, or the row was moved and both places have some: nothing is sent, above all nothing
    in the clear."""
    rig = Rig()
    tunnel = rig.open(tls=MIXED, engines=with_own_records)
    made = transition(rig)
    made.write()
    made.mirrors.refresh()
    assert end(rig, tunnel, [made.table.fd]) == 0
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end", turn=None)
        assert tls(tunnel, side).wire == b""


def test_no_close_frame_where_two_rows_have_keys(rig: Rig) -> None:
    tunnel = rig.open(tls=MIXED, engines=with_own_records)
    rig.relay.release(tunnel.row)
    slice_ = Slice(rig.table, 1)
    row = slice_.receive(*rig.table.copy_of(tunnel.row))
    assert row is not None
    assert end(rig, tunnel, [rig.table.fd]) == 0
    slice_.release(row)


# --- keys -------------------------------------------------------------------------------------------------------------


def keys_in(table: Table) -> bool:
    """Whether there is anything but zeros where sessions are."""
    section = table.description.session
    data = os.pread(table.fd, (section.end(table.slots) - section.at) * CELL_BYTES, section.at * CELL_BYTES)
    return any(data)


def test_keys_are_wiped_when_the_tunnel_ends(rig: Rig) -> None:
    tunnel = rig.open(tls=MIXED)
    used(rig, tunnel)
    assert keys_in(rig.table)
    for side in BOTH:
        tunnel.peer(side).half_close()
    rig.end()
    assert not keys_in(rig.table)


def test_keys_are_wiped_when_a_tunnel_is_counted_and_its_row_stays(pair: Pair) -> None:
    rig = pair.rig
    tunnel = rig.open(tls=MIXED)
    fd = pair.handover.release(1)
    row = pair.slice.receive(*rig.table.copy_of(tunnel.row))
    assert row is not None
    pair.slice.take(row, tunnel.row)
    pair.slice.release(row)
    assert rig.cells[row + STATE] == COUNTED
    assert rig.cells[tunnel.row + STATE] == RELEASED
    assert not any(sessions(rig.table, row))
    assert any(sessions(rig.table, tunnel.row))
    os.close(fd)
    pair.handover.resume()


@pytest.mark.parametrize("how", ["cleared", "succeeded", "settled"])
def test_keys_are_wiped_with_the_rows_of_a_worker_that_is_gone(how: str) -> None:
    table = Table.create(1, 8)
    slice_ = Slice(table, 0)
    for _ in range(3):
        row = slice_.allocate(0, 0)
        assert row is not None
        for side in BOTH:
            slice_.begin_session(row, side, array("q", range(1, SESSION_CELLS + 1)))
        if how == "settled":
            table.cells[row + STATE] = COUNTED
        elif how == "succeeded":
            table.cells[row + STATE] = 0  # it was about to empty the row
    assert keys_in(table)
    if how == "cleared":
        table.clear(0, 1, 1)
    elif how == "succeeded":
        Slice(table, 0)
    else:
        settle(table, 1, 1)
    assert not keys_in(table)
    table.close()


def test_the_place_of_a_session_is_the_rows_own(rig: Rig) -> None:
    """A row that says otherwise is corrupt, or comes from elsewhere: nobody reads another tunnel's keys by it."""
    tunnel = rig.open(tls=MIXED)
    tunnel.write_side(CLIENT, TLS, 5)
    Slice(rig.table, 0)
    assert tunnel.side(CLIENT, TLS) == rig.table.session_at(tunnel.row, CLIENT)


def test_plain_tunnels_do_not_touch_the_pages_of_sessions(pair: Pair) -> None:
    """An idle tunnel costs as much memory as before there was TLS."""
    rig = pair.rig
    tunnels = [rig.open() for _ in range(4)]
    for tunnel in tunnels:
        used(rig, tunnel)
    tunnels[0].client.half_close()
    tunnels[0].backend.half_close()
    rig.end()
    assert pair.move() == (3, [])
    rig.table.clear(0, 1, 1)
    settle(rig.table, 1, 1)
    with pytest.raises(OSError, match="No such device or address"):  # ENXIO: there is no data behind there
        os.lseek(rig.table.fd, rig.table.description.session.at * CELL_BYTES, os.SEEK_DATA)


def test_the_table_is_not_in_core_dumps(rig: Rig) -> None:
    found = []
    flags: list[str] = []
    for line in reversed(Path("/proc/self/smaps").read_text().splitlines()):
        if line.startswith("VmFlags:"):
            flags = line.split()[1:]
        elif "memfd:gateway-tunnels" in line:
            found.append(flags)
    assert found
    assert all("dd" in each for each in found), "do not dump (proc(5))"
