"""A worker leaves its tunnels to another process: what is pending goes out if it can, and no connection is touched."""

from __future__ import annotations

import os
import threading
import time

import pytest

from gateway.tunnels.moving.handback import hand_back
from gateway.tunnels.moving.handover import Handover
from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, DIRTY, RELEASED, ROW_CELLS, SIDES, STATE

from .harness import Rig
from .row_cells import names_of_cells
from .states import BOTH, BUFFERS, FLOOD, HELLO, STATES, both_families


@pytest.mark.parametrize("bring_about", STATES)
def test_whatever_state_a_tunnel_is_in_it_goes_on(rig: Rig, bring_about: object) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    bring_about(rig, tunnel)  # type: ignore[operator]
    before = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    assert hand_back(rig.slice, rig.relay, 0) == before[DIRTY]
    assert rig.waiting() == [], "nobody listens to it any more"
    after = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
    names = names_of_cells()
    differ = {names.get(offset) for offset in range(ROW_CELLS) if before[offset] != after[offset]}
    assert differ <= {f"{side} INTEREST" for side in SIDES}
    assert rig.succeed().adopted == 1 - before[DIRTY]


@both_families
def test_nothing_is_read_and_nobody_is_shut_down(rig: Rig, family: str) -> None:
    tunnel = rig.open(family)
    hand_back(rig.slice, rig.relay, 1)
    for side in BOTH:
        tunnel.peer(side).send(HELLO[side])
    rig.rest()
    for side in BOTH:
        assert tunnel.unread(side) == len(HELLO[side])
        assert not tunnel.peer(side).has_ended()
    assert rig.succeed() == (1, 0, 0)
    for side in BOTH:
        rig.until(lambda side=side: tunnel.peer(1 - side).has(HELLO[side]), "a message")


@both_families
@pytest.mark.parametrize("side", BOTH)
def test_what_is_pending_goes_out_in_time(rig: Rig, family: str, side: int) -> None:
    """The slow reader reads on, and the tunnel is clean then."""
    tunnel = rig.open(family, buffers=BUFFERS)
    source, sink = tunnel.peer(1 - side), tunnel.peer(side)
    sent = rig.stall(source, FLOOD[1 - side])
    assert tunnel.pending[side]
    other = rig.open(family)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            sink.read(1000)
            time.sleep(0.0005)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert hand_back(rig.slice, rig.relay, 10) == 0
    finally:
        stop.set()
        thread.join()
    assert not tunnel.dirty
    assert rig.succeed() == (2, 0, 0)
    rig.until(lambda: sink.read() >= 0 and len(sink.received) == len(sent), "all of it")
    assert sink.received == sent
    other.client.send(HELLO[CLIENT])
    rig.until(lambda: other.backend.has(HELLO[CLIENT]), "a message")


def test_whoever_takes_nothing_is_not_waited_for_for_long(rig: Rig) -> None:
    stalled, clean = rig.open(buffers=BUFFERS), rig.open()
    rig.stall(stalled.backend, FLOOD[BACKEND_SIDE])
    began = time.monotonic()
    assert hand_back(rig.slice, rig.relay, 0.2) == 1
    assert 0.2 <= time.monotonic() - began < 8
    assert stalled.dirty
    assert not clean.dirty
    assert rig.succeed() == (1, 1, 0)


def test_an_end_that_is_gone_does_not_hold_it_up(rig: Rig) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])
    tunnel.client.reset()
    began = time.monotonic()
    assert hand_back(rig.slice, rig.relay, 10) == 0
    assert time.monotonic() - began < 9


def test_what_was_released_is_left_alone(rig: Rig) -> None:
    """Another worker may serve it."""
    tunnel = rig.open()
    os.close(Handover(rig.slice, rig.relay).release(1))
    assert hand_back(rig.slice, rig.relay, 1) == 0
    assert rig.cells[tunnel.row + STATE] == RELEASED
