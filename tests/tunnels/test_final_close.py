"""Tunnels that cannot be resumed are ended with a Close frame where one fits."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from gateway.tunnels.moving.final_close import end_all
from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, OPAQUE, RELEASED, STATE
from tests.support.frames import TEXT

from .harness import Rig, Tunnel
from .states import BUFFERS, HELLO, both_families, stalled
from .wire import close_frames, closing, frame


def end(rig: Rig, tunnel: Tunnel) -> int:
    """The worker is gone; how many sides were told."""
    rig.relay.release(tunnel.row)
    kept = [(each, (os.dup(fds[0]), os.dup(fds[1]))) for each, fds in rig.kept.items()]
    told = end_all(kept, [rig.table.fd])
    for side in (CLIENT, BACKEND_SIDE):
        rig.until(tunnel.peer(side).has_ended, "the end", turn=None)
        assert tunnel.peer(side).end == "fin"
    return told


@both_families
def test_both_sides_are_told(rig: Rig, family: str) -> None:
    tunnel = rig.open(family)
    tunnel.client.send(HELLO[CLIENT])
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "a message")
    tunnel.client.send(HELLO[CLIENT])  # that nobody reads
    assert end(rig, tunnel) == 2
    assert tunnel.client.received == closing(1012, masked=False)
    assert close_frames(bytes(tunnel.backend.received[len(HELLO[CLIENT]) :])) == [(1012, True)]
    assert rig.cells[tunnel.row + STATE] == RELEASED


def within_a_frame(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.backend.send(frame(TEXT, b"x" * 300)[:100])
    rig.until(lambda: tunnel.client.read() or tunnel.client.received, "a piece of a frame")


def closed_already(rig: Rig, tunnel: Tunnel) -> None:
    tunnel.backend.send(closing(1000, masked=False))
    rig.until(lambda: tunnel.client.has(closing(1000, masked=False)), "the Close frame")


@pytest.mark.parametrize("bring_about", [within_a_frame, stalled, closed_already])
def test_no_close_frame_stands_where_none_may(rig: Rig, bring_about: Callable[[Rig, Tunnel], None]) -> None:
    tunnel = rig.open(buffers=BUFFERS)
    bring_about(rig, tunnel)
    tunnel.client.read()
    before = len(tunnel.client.received)
    told = end(rig, tunnel)
    if bring_about is within_a_frame:
        assert told == 1, "the backend is told all the same"
    else:
        assert told == (1 if bring_about is closed_already else 0)
    assert not bytes(tunnel.client.received[before:]).endswith(closing(1012, masked=False))


def test_another_protocol_just_ends(rig: Rig) -> None:
    tunnel = rig.open(kind=OPAQUE)
    assert end(rig, tunnel) == 0
    assert (tunnel.client.received, tunnel.backend.received) == (b"", b"")


def test_without_a_table_they_just_end(rig: Rig) -> None:
    tunnel = rig.open()
    rig.relay.release(tunnel.row)
    assert end_all([(tunnel.id, tuple(map(os.dup, rig.kept[tunnel.id])))], ()) == 0  # type: ignore[list-item]
    rig.until(tunnel.client.has_ended, "the end", turn=None)
    assert tunnel.client.received == b""
