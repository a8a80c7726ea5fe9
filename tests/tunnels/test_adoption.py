"""A successor carries on what a dead worker relayed: nothing of a tunnel is anywhere but in its row."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import gateway
from gateway.protocol.scanner_state import SCANNER_CELLS
from gateway.tunnels import layout
from gateway.tunnels.layout import (
    B_LIVE,
    BACKEND_SIDE,
    BYTES,
    CAUSE,
    CLIENT,
    CLOSING_NS,
    DEADLINE_NS,
    DIRTY,
    DRAIN,
    FD,
    FREE,
    HELD,
    ID,
    IDLE,
    LAST_NS,
    LIVE,
    NEVER,
    ON_LOSS_CODE,
    OPAQUE,
    PACED_NS,
    PING_AFTER_NS,
    RESERVED,
    ROW_CELLS,
    RTT_NS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    STATE,
    TALKS,
    TEXT_CELL,
    W_ADOPTED,
)
from gateway.tunnels.sweep import set_deadline
from tests.support.frames import BINARY, CONTINUATION, PING, PONG, TEXT

from .harness import CLOSE_WITHIN, NS, Rig, Tunnel
from .wire import close_frames, closing, frame

BUFFERS = 64 * 1024
BOTH = (CLIENT, BACKEND_SIDE)
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
LONG = {CLIENT: frame(BINARY, bytes(70_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(70_000))}
CLOSE = {CLIENT: closing(1000, masked=True), BACKEND_SIDE: closing(1000, masked=False)}
FLOOD = {CLIENT: frame(BINARY, bytes(50_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(50_000))}
PACKAGE = Path(gateway.__file__).parent

both_families = pytest.mark.parametrize("family", ["tcp", "unix"])
both_sides = pytest.mark.parametrize("side", BOTH, ids=SIDES)


def words(text: str) -> set[str]:
    return set(text.split())


# --- completeness -----------------------------------------------------------------------------------------------------

IN_THE_ROW = words("""
    STATE ID ROUTE BACKEND TOTALS PHASE OPENED_NS OPENED_UNIX_NS KIND CLOSING_NS WRITE_STALL_NS CLOSE_NS IDLE_NS
    LIFETIME_NS INITIATOR CAUSE CLOSE_CODE_SENT GATE LAST_NS BYTES ENDED SHUT STATUS REST REMAINING HEADER_LENGTH
    MASKING MESSAGE FRAMES DATA_AT OPCODE HEADER_LOW HEADER_HIGH MASK CONTROL_READ DIGEST CLOSE_CODE
    PING_AT PING_ID PONG_AT PONG_ID PEER
    END_SIDE ON_LOSS_CODE PACED_NS PACED_CODE
    PING_AFTER_NS PONG_TIMEOUT_NS NETWORK PINGS_SENT PINGS_ANSWERED PING_TAG PINGED_NS WROTE_NS PONG_NS RTT_NS
    SILENCE_NS HELD HELD_LOW HELD_HIGH END_IDLE_NS END_QUIET_NS END_QUEUED TALKS
    """)
"""Cells that mean the same in any process."""

REBUILT = {"FD", "INTEREST", "DEADLINE_NS"}
"""Cells that ``Relay.adopt`` writes anew, or has the sweep write, from the others."""

ZERO_IN_A_CLEAN_ROW = {"DIRTY", "PENDING", "STALLED_NS"}
"""Cells about what is in a process's hands: of a tunnel that is carried on, nothing was."""

HOLDINGS = {
    # Of these, owners and pending are about tunnels: adopt fills in the one, the other holds nothing of a clean row.
    "tunnels/streams.py Streams": words("kernel cells owners pending closing_fds called now"),
    "tunnels/ending.py Ending": words("on_end on_loss called now"),
    "tunnels/pinging.py Pinging": words("on_answer called now"),
    "tunnels/relay.py Relay": words("on_tick tick_ns called now"),
    "tunnels/poller.py Poller": {"kernel", "relay", "_callbacks", "_readers", "_put_off"},
    "tunnels/table.py Slice": {"table", "slot", "cells", "block", "first", "_free"},
    "edge/edge.py Edge": words("""
        loop poller relay kernel slice registry events log store descriptors batch names plain accepted known_heads
        waiting draining drained ends config routes trust sweep intervals on_learned drained_backends
        _next_walk _losses _pacing_until_ns _tasks
        """),
    "observe/ends.py Ends": {"_table", "_registry", "_events", "_batch"},
}
"""What objects of a worker that see tunnels have as attributes. None of them holds anything of a tunnel by itself."""


def numbered(source: str) -> set[str]:
    """Names that a module numbers with ``range``."""
    found = set()
    for node in ast.parse((PACKAGE / source).read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Tuple):
            found |= {name.id for name in node.targets[0].elts if isinstance(name, ast.Name)}
    return found


def test_each_cell_of_a_row_is_carried_on_or_rebuilt() -> None:
    """A new cell stands in one of the sets above, and whoever puts it there has thought about a successor."""
    elsewhere = {cause.upper() for cause in layout.CAUSES}
    cells = {name for name in numbered("tunnels/layout.py") - elsewhere if name[:2] not in ("H_", "W_", "B_", "T_")}
    cells |= numbered("protocol/scanner_state.py")
    assert {"STATE", "FD", "ENDED", "STATUS"} <= cells
    assert cells == IN_THE_ROW | REBUILT | ZERO_IN_A_CLEAN_ROW
    assert len(cells) == len(IN_THE_ROW) + len(REBUILT) + len(ZERO_IN_A_CLEAN_ROW)


@pytest.mark.parametrize("where", HOLDINGS)
def test_nothing_of_a_tunnel_is_outside_of_its_row(where: str) -> None:
    """A new attribute is listed above if it is not about single tunnels. If it is, it belongs into the row."""
    path, name = where.split()
    tree = ast.parse((PACKAGE / path).read_text())
    (body,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    found = {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    assert found == HOLDINGS[where]


def names_of_cells() -> dict[int, str]:
    """The name of each cell of a row that has one, by its offset."""
    found = {}
    scanner = numbered("protocol/scanner_state.py")
    of_a_side = words("""
        FD PENDING GATE LAST_NS BYTES INTEREST STALLED_NS ENDED SHUT PING_AFTER_NS PONG_TIMEOUT_NS NETWORK PINGS_SENT
        PINGS_ANSWERED PING_TAG PINGED_NS WROTE_NS PONG_NS RTT_NS SILENCE_NS HELD HELD_LOW HELD_HIGH END_IDLE_NS
        END_QUIET_NS END_QUEUED TALKS
        """)
    for name in IN_THE_ROW | REBUILT | ZERO_IN_A_CLEAN_ROW:
        if name in scanner:
            module = __import__("gateway.protocol.scanner_state", fromlist=[name])
            offsets = [SIDE_0 + side * SIDE_CELLS + SCANNER + getattr(module, name) for side in BOTH]
        elif name in of_a_side:
            offsets = [SIDE_0 + side * SIDE_CELLS + getattr(layout, name) for side in BOTH]
        else:
            offsets = [getattr(layout, name)]
        for side, offset in enumerate(offsets):
            assert offset not in found
            found[offset] = name if len(offsets) == 1 else f"{SIDES[side]} {name}"
    assert SCANNER_CELLS <= layout.STALLED_NS - SCANNER
    return found


# --- what a successor finds -------------------------------------------------------------------------------------------


def silent(rig: Rig, tunnel: Tunnel) -> None:
    pass


def used(rig: Rig, tunnel: Tunnel) -> None:
    for side in BOTH:
        tunnel.peer(side).send(HELLO[side])
    rig.until(lambda: tunnel.client.has(HELLO[BACKEND_SIDE]) and tunnel.backend.has(HELLO[CLIENT]), "the messages")


def in_a_header(rig: Rig, tunnel: Tunnel) -> None:
    for side, size in ((CLIENT, 12), (BACKEND_SIDE, 1)):
        tunnel.peer(side).send(LONG[side][:size])
        rig.until(lambda side=side, size=size: tunnel.peer(1 - side).has(LONG[side][:size]), "a piece of a header")


def in_a_payload(rig: Rig, tunnel: Tunnel) -> None:
    for side in BOTH:
        tunnel.peer(side).send(LONG[side][:1000])
        rig.until(lambda side=side: tunnel.peer(1 - side).has(LONG[side][:1000]), "a piece of a frame")


def between_fragments(rig: Rig, tunnel: Tunnel) -> None:
    first = frame(TEXT, b"one, ", masked=True, fin=False) + frame(PING, b"?", masked=True)
    tunnel.client.send(first)
    rig.until(lambda: tunnel.backend.has(first), "a fragment")


def in_a_close_code(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.client.send(CLOSE[CLIENT][:-1])
    rig.until(lambda: tunnel.backend.has(CLOSE[CLIENT][:-1]), "a piece of a Close frame")


def half_closed(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.client.half_close()
    rig.until(tunnel.backend.has_ended, "FIN")


def half_closed_by_the_backend(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.backend.half_close()
    rig.until(tunnel.client.has_ended, "FIN")


def one_side_reset(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.backend.reset()
    rig.until(tunnel.client.has_ended, "FIN")


def said_goodbye(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.backend.send(CLOSE[BACKEND_SIDE])
    rig.until(lambda: tunnel.client.has(CLOSE[BACKEND_SIDE]), "the Close frame")


def broken(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.client.send(b"\xff\xff\xff")
    rig.until(lambda: tunnel.backend.has(b"\xff\xff\xff"), "nonsense")


def being_closed(rig: Rig, tunnel: Tunnel) -> None:
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    rig.until(lambda: tunnel.client.read() + tunnel.backend.read(), "Close frames")


def close_is_due(rig: Rig, tunnel: Tunnel) -> None:
    in_a_payload(rig, tunnel)
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)


def was_stalled(rig: Rig, tunnel: Tunnel) -> None:
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    rig.until(lambda: tunnel.client.has(sent), "everything")


def after_a_silence(rig: Rig, tunnel: Tunnel) -> None:
    """Nothing has been heard of either side for a while, and then both endpoints ping each other."""
    for side in BOTH:
        rig.cells[tunnel.row + SIDE_0 + side * SIDE_CELLS + LAST_NS] -= 5 * NS
    for side, other in (BOTH, BOTH[::-1]):
        ping, pong = (frame(opcode, b"own", masked=who == CLIENT) for opcode, who in ((PING, side), (PONG, other)))
        tunnel.peer(side).send(ping)
        rig.until(tunnel.peer(other).read, "a Ping")
        tunnel.peer(other).send(pong)
        rig.until(tunnel.peer(side).read, "its Pong")


def pinged_by_the_gateway(rig: Rig, tunnel: Tunnel) -> None:
    for side in BOTH:
        rig.cells[tunnel.row + SIDE_0 + side * SIDE_CELLS + LAST_NS] -= 5 * NS
    assert rig.relay.ping(tunnel.row, CLIENT)
    rig.until(tunnel.client.read, "a Ping")
    tunnel.client.send(frame(PONG, bytes(tunnel.client.received[2:]), masked=True))
    rig.until(lambda: tunnel.side(CLIENT, RTT_NS), "the Pong to be taken")


def half_a_pong_is_held(rig: Rig, tunnel: Tunnel) -> None:
    for side in BOTH:
        rig.cells[tunnel.row + SIDE_0 + side * SIDE_CELLS + LAST_NS] -= 5 * NS
    assert rig.relay.ping(tunnel.row, CLIENT)
    assert rig.relay.ping(tunnel.row, BACKEND_SIDE)
    rig.until(tunnel.client.read, "a Ping")
    rig.until(tunnel.backend.read, "a Ping")
    tunnel.client.send(frame(PONG, bytes(tunnel.client.received[2:]), masked=True)[:13])
    rig.until(lambda: tunnel.side(CLIENT, HELD), "the beginning of a Pong")


def spoke_before_it_was_asked(rig: Rig, tunnel: Tunnel) -> None:
    """A side speaks again by itself, after a silence that was too short for a Ping."""
    for side in BOTH:
        rig.cells[tunnel.row + SIDE_0 + side * SIDE_CELLS + LAST_NS] -= 5 * NS
        rig.cells[tunnel.row + SIDE_0 + side * SIDE_CELLS + PING_AFTER_NS] = 25 * NS
    used(rig, tunnel)
    assert tunnel.side(CLIENT, TALKS) == 1


def half_closed_while_stalled(rig: Rig, tunnel: Tunnel) -> None:
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    tunnel.client.half_close()
    rig.until(lambda: tunnel.cell(CLOSING_NS), "the FIN")
    rig.until(lambda: tunnel.client.has(sent), "everything")


def waiting_to_be_told_of_a_loss(rig: Rig, tunnel: Tunnel) -> None:
    rig.cells[tunnel.row + ON_LOSS_CODE] = 1012
    rig.told_at = lambda row: rig.relay.now + 60 * NS
    tunnel.backend.half_close()
    rig.until(lambda: tunnel.cell(PACED_NS), "the FIN")


STATES: list[Callable[[Rig, Tunnel], None]] = [
    waiting_to_be_told_of_a_loss,
    after_a_silence,
    pinged_by_the_gateway,
    half_a_pong_is_held,
    spoke_before_it_was_asked,
    half_closed_while_stalled,
    silent,
    used,
    in_a_header,
    in_a_payload,
    between_fragments,
    in_a_close_code,
    half_closed,
    half_closed_by_the_backend,
    one_side_reset,
    said_goodbye,
    broken,
    being_closed,
    close_is_due,
    was_stalled,
]


@both_families
@pytest.mark.parametrize("bring_about", STATES)
def test_a_row_is_the_same_before_and_after(rig: Rig, family: str, bring_about: Callable[[Rig, Tunnel], None]) -> None:
    tunnel = rig.open(family, buffers=BUFFERS, idle=60 * NS)
    bring_about(rig, tunnel)
    rig.rest()
    set_deadline(rig.cells, tunnel.row)
    before = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    assert rig.succeed() == (1, 0, 0)
    rig.sweep(rig.relay.now)
    after = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    names = names_of_cells()
    differ = {names.get(offset) for offset in range(ROW_CELLS) if before[offset] != after[offset]}
    assert differ <= {f"{side} FD" for side in SIDES}
    assert tuple(after[SIDE_0 + side * SIDE_CELLS + FD] for side in BOTH) == tunnel.fds
    unnamed = {offset for offset in range(TEXT_CELL) if offset not in names and after[offset]}
    assert not unnamed, "cells that have no name in layout.py are in use"
    for offset, name in names.items():
        assert name.split()[-1] not in ZERO_IN_A_CLEAN_ROW or not after[offset]
    rig.assert_live(tunnel)


def test_no_state_is_left_out() -> None:
    """The states above are different ones: together they touch each cell that a state can be in."""
    names = names_of_cells()
    touched: set[str | None] = set()
    for bring_about in STATES:
        rig = Rig()
        try:
            tunnel = rig.open(buffers=BUFFERS, idle=60 * NS)
            start = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
            bring_about(rig, tunnel)
            rig.rest()
            now = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
            touched |= {names.get(offset) for offset in range(ROW_CELLS) if start[offset] != now[offset]}
        finally:
            rig.close()
    fixed_at_the_opening = words("""
        STATE ID ROUTE BACKEND TOTALS OPENED_NS OPENED_UNIX_NS KIND WRITE_STALL_NS CLOSE_NS IDLE_NS LIFETIME_NS FD
        MASKING PEER PING_AFTER_NS PONG_TIMEOUT_NS NETWORK ON_LOSS_CODE
        """)
    found = {name.split()[-1] for name in touched if name}
    assert found | fixed_at_the_opening | ZERO_IN_A_CLEAN_ROW == IN_THE_ROW | REBUILT | ZERO_IN_A_CLEAN_ROW


# --- what it goes on with -------------------------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize("often", [1, 10])
def test_streams_go_on_where_they_were_cut(rig: Rig, family: str, often: int) -> None:
    tunnel = rig.open(family)
    streams = {
        side: b"".join(
            frame(opcode, bytes(size), masked=side == CLIENT, fin=fin)
            for opcode, size, fin in (
                (TEXT, 10, True),
                (BINARY, 300, False),
                (PONG, 3, True),
                (CONTINUATION, 70_000, True),
            )
        )
        for side in BOTH
    }
    heard = dict.fromkeys(BOTH, b"")
    for n in range(often):
        for side in BOTH:
            at = len(streams[side]) * (n + 1) // often
            piece = streams[side][len(heard[side]) : at]
            tunnel.peer(side).send(piece)
            heard[side] += piece
            rig.until(lambda side=side: tunnel.peer(1 - side).has(heard[side]), "a piece")
        assert rig.succeed() == (1, 0, 0)
    for side in BOTH:
        tunnel.peer(side).send(CLOSE[side])
        rig.until(lambda side=side: tunnel.peer(1 - side).has(streams[side] + CLOSE[side]), "the Close frame")
        assert rig.totals(side).frames == {0: 1, 1: 1, 2: 1, 8: 1, 10: 1}
        assert rig.totals(side).violations == 0
    tunnel.backend.close()
    tunnel.client.close()
    end = rig.end()
    assert (end.initiator, end.cause) == ("client", "close_frame")
    assert [end.side(side, BYTES) for side in BOTH] == [len(streams[side] + CLOSE[side]) for side in BOTH]
    assert rig.table.cells[rig.slice.block + W_ADOPTED] == often
    rig.assert_nothing_left(tunnel)


@both_sides
def test_what_came_meanwhile_is_relayed(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.peer(side).send(HELLO[side])
    tunnel.peer(side).half_close()
    assert rig.succeed() == (1, 0, 0)
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    assert tunnel.peer(1 - side).received == HELLO[side]
    tunnel.peer(1 - side).close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "fin")
    rig.assert_nothing_left(tunnel)


@both_sides
def test_a_reset_meanwhile(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    tunnel.peer(side).reset()
    assert rig.succeed() == (1, 0, 0)
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    tunnel.peer(1 - side).close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "reset")
    rig.assert_nothing_left(tunnel)


@both_families
@both_sides
def test_a_half_closed_tunnel_goes_on(rig: Rig, family: str, side: int) -> None:
    tunnel = rig.open(family)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.half_close()
    rig.until(far.has_ended, "FIN")
    assert rig.succeed() == (1, 0, 0)
    far.send(HELLO[1 - side])
    rig.until(lambda: near.has(HELLO[1 - side]), "the other direction")
    rig.assert_live(tunnel)
    far.half_close()
    rig.until(near.has_ended, "FIN")
    assert rig.end().cause == "fin"
    rig.assert_nothing_left(tunnel)


def test_a_close_that_is_due_is_written_at_the_boundary(rig: Rig) -> None:
    tunnel = rig.open()
    close_is_due(rig, tunnel)
    assert rig.succeed() == (1, 0, 0)
    for side in BOTH:
        tunnel.peer(side).send(LONG[side][1000:] + HELLO[side])  # the latter is discarded
    for side in BOTH:
        size = len(LONG[1 - side]) + (8 if side == BACKEND_SIDE else 4)
        peer = tunnel.peer(side)
        rig.until(lambda peer=peer, size=size: peer.read() >= 0 and len(peer.received) == size, "the Close frame")
        assert peer.received.startswith(LONG[1 - side])
        assert close_frames(bytes(peer.received[len(LONG[1 - side]) :])) == [(1012, side == BACKEND_SIDE)]
    for side in BOTH:
        tunnel.peer(side).send(CLOSE[side])
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "drain")
    rig.assert_nothing_left(tunnel)


def test_answers_to_a_close_are_waited_for_as_long_as_before(rig: Rig) -> None:
    tunnel = rig.open()
    being_closed(rig, tunnel)
    due = tunnel.cell(CLOSING_NS) + CLOSE_WITHIN
    assert rig.succeed() == (1, 0, 0)
    rig.sweep(due - 1)
    rig.assert_live(tunnel)
    rig.sweep(due)
    assert rig.end().cause == "drain"
    rig.assert_nothing_left(tunnel)


def test_time_outs_go_on(rig: Rig) -> None:
    tunnel = rig.open(idle=60 * NS)
    used(rig, tunnel)
    set_deadline(rig.cells, tunnel.row)
    due = tunnel.cell(DEADLINE_NS)
    assert due < NEVER
    assert rig.succeed() == (1, 0, 0)
    rig.sweep(due - 1)
    assert tunnel.cell(DEADLINE_NS) == due
    rig.sweep(due)
    rig.until(lambda: tunnel.client.read(), "the Close frame")
    assert tunnel.cell(CAUSE) == IDLE


def test_an_opaque_tunnel_goes_on(rig: Rig) -> None:
    tunnel = rig.open(kind=OPAQUE)
    assert rig.succeed() == (1, 0, 0)
    tunnel.client.send(b"\x00\xff")
    rig.until(lambda: tunnel.backend.has(b"\x00\xff"), "bytes")
    assert rig.totals(CLIENT).frames == {}
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    rig.until(lambda: tunnel.client.has_ended() and tunnel.backend.has_ended(), "the end")


def test_backpressure_goes_on(rig: Rig) -> None:
    """A successor meets full sockets like anybody."""
    tunnel = rig.open(buffers=BUFFERS)
    was_stalled(rig, tunnel)
    assert rig.succeed() == (1, 0, 0)
    already = len(tunnel.client.received)
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    assert tunnel.dirty
    rig.until(lambda: tunnel.client.read() >= 0 and len(tunnel.client.received) == already + len(sent), "all of it")
    assert tunnel.client.received[already:] == sent
    assert not tunnel.dirty


# --- what is lost ---------------------------------------------------------------------------------------------------


@both_families
def test_a_tunnel_with_bytes_in_the_dead_workers_hands_is_cut(rig: Rig, family: str) -> None:
    tunnel = rig.open(family, buffers=BUFFERS)
    sent = rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    assert tunnel.cell(DIRTY)
    assert rig.succeed() == (0, 1, 0)
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "worker_lost")
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end")
    assert 0 < len(tunnel.client.received) < len(sent)
    assert sent.startswith(tunnel.client.received)
    assert tunnel.backend.received == b""
    rig.assert_nothing_left(tunnel)
    assert rig.table.cells[rig.slice.block + W_ADOPTED] == 0


@both_families
def test_a_tunnel_whose_connections_were_not_kept_is_cut(rig: Rig, family: str) -> None:
    tunnel = rig.open(family)
    used(rig, tunnel)
    rig.forget(tunnel.id)
    assert rig.succeed() == (0, 0, 1)
    assert rig.end().cause == "worker_lost"
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end")
    rig.assert_nothing_left(tunnel)


def test_a_descriptor_that_epoll_does_not_take(rig: Rig, tmp_path: Path) -> None:
    tunnel = rig.open()
    other = rig.open()
    used(rig, tunnel)
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), rig.kept[tunnel.id][BACKEND_SIDE])
    assert rig.succeed() == (1, 0, 1)
    assert rig.end().cause == "worker_lost"
    rig.until(tunnel.client.has_ended, "the end")
    rig.assert_live(other)


def test_connections_of_a_tunnel_that_had_ended_are_closed(rig: Rig) -> None:
    tunnel = rig.open()
    tunnel.client.close()
    tunnel.backend.close()
    rig.end()
    assert rig.kept
    assert rig.succeed() == (0, 0, 0)
    assert not rig.kept
    rig.assert_nothing_left(tunnel)


def test_connections_of_a_row_that_is_another_tunnels_now_are_closed(rig: Rig) -> None:
    """The end of the first and the opening of the second were not heard of when the worker died."""
    first = rig.open()
    first.client.close()
    first.backend.close()
    rig.end()
    second = rig.open()
    assert second.row == first.row
    assert second.id != first.id
    rig.forget(second.id)
    assert rig.succeed() == (0, 0, 1)
    assert not rig.kept
    for side in BOTH:
        rig.until(second.peer(side).has_ended, "the end")
    rig.end()
    rig.assert_nothing_left(second)


def test_handshakes_are_gone_and_counts_are_right(rig: Rig) -> None:
    tunnel = rig.open()
    lost = rig.open()
    rig.forget(lost.id)
    handshake = rig.slice.allocate(0, 7)
    assert handshake is not None
    at = [rig.table.backend_at(0, backend) + B_LIVE for backend in (0, 7)]
    assert [rig.cells[cell] for cell in at] == [2, 1]
    assert rig.cells[handshake + STATE] == RESERVED
    rig.cells[at[1]] = 3  # as of a worker that died while it changed its mind about a backend
    assert rig.succeed() == (1, 0, 1)
    assert [rig.cells[cell] for cell in at] == [1, 0]
    assert rig.cells[handshake + STATE] == FREE
    assert rig.cells[tunnel.row + STATE] == LIVE
    assert rig.slice.rows_in_use == 1
    rig.end()
    assert {rig.slice.allocate(0, 0), rig.slice.allocate(0, 0)} == {lost.row, handshake}
    assert rig.cells[handshake + ID] not in (tunnel.id, lost.id)


def test_a_successor_that_dies_of_a_tunnel_does_not_leave_it_to_the_next(rig: Rig) -> None:
    """It is dirty while it is adopted."""
    tunnel = rig.open()
    rig.cells[tunnel.row + DIRTY] = 1
    assert rig.succeed() == (0, 1, 0)
    rig.end()
    rig.assert_nothing_left(tunnel)


def test_hundreds_of_tunnels_of_all_kinds() -> None:
    rig = Rig(500)
    try:
        tunnels = [rig.open("unix") for _ in range(500)]
        for n, tunnel in enumerate(tunnels):
            tunnel.client.send(HELLO[CLIENT])
            if n % 10 == 1:
                rig.forget(tunnel.id)
        rig.rest()
        for n, tunnel in enumerate(tunnels):
            rig.cells[tunnel.row + DIRTY] = n % 10 == 2
        assert rig.succeed() == (400, 50, 50)
        assert len(rig.ends) == 100
        rig.ends.clear()
        for n, tunnel in enumerate(tunnels):
            tunnel.backend.read()
            if n % 10 in (1, 2):
                assert tunnel.backend.end
            else:
                tunnel.backend.send(HELLO[BACKEND_SIDE])
        rig.rest()
        assert all(tunnel.client.has(HELLO[BACKEND_SIDE]) for n, tunnel in enumerate(tunnels) if n % 10 not in (1, 2))
    finally:
        rig.close()
