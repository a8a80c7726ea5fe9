"""A half-closed tunnel: a WebSocket is ending; another protocol may go on in the other direction for long."""

from __future__ import annotations

import pytest

from gateway.tunnels.table.layout import (
    CLOSING_NS,
    LAST_NS,
    NEVER,
    OPAQUE,
    PACED_NS,
    PENDING,
    SIDE_0,
    SIDE_CELLS,
    STALLED_NS,
    WEBSOCKET,
)
from gateway.tunnels.upkeep.pacing import cancel_drain, plan_drain

from .harness import CLOSE_WITHIN, NS, Rig, Tunnel
from .states import BOTH, BUFFERS

pytestmark = pytest.mark.parametrize("side", BOTH)
"""The side that has sent FIN."""

SECONDS = 8 * NS
assert SECONDS < CLOSE_WITHIN


def half_closed(rig: Rig, side: int, *, kind: int = OPAQUE, lifetime: int = NEVER) -> Tunnel:
    tunnel = rig.open(kind=kind, buffers=BUFFERS, lifetime=lifetime)
    tunnel.peer(side).half_close()
    rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    return tunnel


def relayed(rig: Rig, tunnel: Tunnel, source: int, later: int) -> None:
    """Bytes of a side were relayed some time after the FIN."""
    rig.cells[tunnel.row + SIDE_0 + source * SIDE_CELLS + LAST_NS] = tunnel.cell(CLOSING_NS) + later


def test_the_time_to_close_counts_from_the_last_byte(rig: Rig, side: int) -> None:
    tunnel = half_closed(rig, side)
    began = tunnel.cell(CLOSING_NS)
    for times in range(1, 6):
        relayed(rig, tunnel, 1 - side, times * SECONDS)
        rig.sweep(began + (times - 1) * SECONDS + CLOSE_WITHIN)
        rig.assert_live(tunnel)
        tunnel.peer(1 - side).send(b"more")
        rig.until(lambda: tunnel.peer(side).has(b"more"), "what comes after the FIN")
        tunnel.peer(side).received.clear()
    relayed(rig, tunnel, 1 - side, 5 * SECONDS)
    rig.sweep(began + 5 * SECONDS + CLOSE_WITHIN - 1)
    rig.assert_live(tunnel)
    rig.sweep(began + 5 * SECONDS + CLOSE_WITHIN)
    assert rig.end().cause == "fin"
    rig.assert_nothing_left(tunnel)


def test_a_websocket_has_no_longer_for_it(rig: Rig, side: int) -> None:
    tunnel = half_closed(rig, side, kind=WEBSOCKET)
    relayed(rig, tunnel, 1 - side, SECONDS)
    rig.sweep(tunnel.cell(CLOSING_NS) + CLOSE_WITHIN)
    assert rig.end().cause == "fin"


def test_a_reader_that_is_slow_but_reads_keeps_it_open(rig: Rig, side: int) -> None:
    """Nothing is read of the sender meanwhile: what counts is that the other side takes something."""
    tunnel = half_closed(rig, side)
    rig.stall(tunnel.peer(1 - side), bytes(50_000))
    relayed(rig, tunnel, 1 - side, 0)
    assert tunnel.side(side, PENDING)
    taken = tunnel.cell(CLOSING_NS) + SECONDS  # as a flush that does not send everything notes it
    rig.cells[tunnel.row + SIDE_0 + side * SIDE_CELLS + STALLED_NS] = taken
    rig.sweep(taken + CLOSE_WITHIN - 1)
    assert not rig.ends
    rig.sweep(taken + CLOSE_WITHIN)
    assert rig.end().cause == "fin"


def test_what_is_sent_to_a_side_that_is_gone_keeps_nothing_open(rig: Rig, side: int) -> None:
    tunnel = half_closed(rig, side)
    tunnel.peer(side).reset()
    rig.until(tunnel.peer(1 - side).has_ended, "the end")
    relayed(rig, tunnel, 1 - side, SECONDS)
    tunnel.peer(1 - side).send(b"to nobody")
    rig.rest()
    rig.sweep(tunnel.cell(CLOSING_NS) + CLOSE_WITHIN)
    assert rig.end().cause == "fin"
    rig.assert_nothing_left(tunnel)


def test_it_grows_no_older_than_others(rig: Rig, side: int) -> None:
    tunnel = half_closed(rig, side, lifetime=60 * NS)
    began = tunnel.cell(CLOSING_NS)
    relayed(rig, tunnel, 1 - side, 59 * NS)
    rig.sweep(began + 59 * NS)
    rig.assert_live(tunnel)
    rig.sweep(began + 60 * NS)
    assert rig.end().cause == "fin"
    rig.assert_nothing_left(tunnel)


@pytest.mark.parametrize("planned", ["before", "after"])
def test_a_drain_ends_it_in_its_turn(rig: Rig, side: int, planned: str) -> None:
    """Whether it was planned before the FIN came, or later. FIN is passed on meanwhile."""
    if planned == "after":
        tunnel = half_closed(rig, side)
    else:
        tunnel, _ = rig.open(kind=OPAQUE), rig.open(kind=OPAQUE)
    began = rig.relay.now
    rig.cells[tunnel.row + PACED_NS] = 0
    plan_drain(rig.slice, began, 100 * NS, 1012)
    rig.cells[tunnel.row + PACED_NS] = began + 50 * NS
    if planned == "before":
        tunnel.peer(side).half_close()
        rig.until(tunnel.peer(1 - side).has_ended, "FIN")
    relayed(rig, tunnel, 1 - side, 49 * NS)
    rig.sweep(began + 49 * NS)
    assert tunnel.row in rig.table.rows()
    rig.sweep(began + 50 * NS)
    assert rig.end().cause == "fin"
    for each in BOTH:
        rig.until(tunnel.peer(each).has_ended, "the end")


def test_a_drain_that_is_given_up_leaves_it_alone(rig: Rig, side: int) -> None:
    tunnel = half_closed(rig, side)
    plan_drain(rig.slice, rig.relay.now, 100 * NS, 1012, {0})
    assert tunnel.cell(PACED_NS)
    cancel_drain(rig.slice, {0})
    assert not tunnel.cell(PACED_NS)
