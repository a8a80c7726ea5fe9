"""A tunnel does not outlive its client's credentials: Close frames at that time, whatever happens in between."""

from __future__ import annotations

import time

import pytest

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CLOSE_CODE_SENT,
    DEADLINE_NS,
    EXPIRES_NS,
    NEVER,
    OPAQUE,
    SECOND,
    STATE,
)
from tests.support.frames import BINARY, TEXT

from .harness import CLOSE_WITHIN, Rig, Tunnel
from .pair import Pair
from .tls_peers import TLS13
from .wire import close_frames, closing, frame

DENIED = 4401
HOUR = 3600 * SECOND


def now() -> int:
    return time.monotonic_ns()


def assert_expired(rig: Rig, tunnel: Tunnel, code: int = DENIED) -> None:
    """Both sides get their Close frames, and the end is recorded as that of a lifetime."""
    rig.until(lambda: tunnel.client.read() >= 0 and tunnel.client.received, "the client's Close frame")
    rig.until(lambda: tunnel.backend.read() >= 0 and tunnel.backend.received, "the backend's Close frame")
    assert close_frames(bytes(tunnel.client.received)) == [(code, False)]
    assert close_frames(bytes(tunnel.backend.received)) == [(1001, True)]
    assert tunnel.cell(CLOSE_CODE_SENT) == code
    tunnel.client.send(closing(code, masked=True))
    tunnel.backend.send(closing(1001, masked=False))
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "max_lifetime")
    rig.assert_nothing_left(tunnel)


@pytest.mark.parametrize("tls", [(None, None), (TLS13, TLS13)])
def test_at_that_time(rig: Rig, tls: tuple[str | None, str | None]) -> None:
    tunnel = rig.open("tcp", expires=now() + 100 * SECOND, expiry_code=DENIED, tls=tls)
    assert tunnel.cell(DEADLINE_NS) == tunnel.cell(EXPIRES_NS)
    rig.sweep(tunnel.cell(EXPIRES_NS) - 2 * SECOND)
    rig.assert_live(tunnel)
    assert not tunnel.client.read()
    rig.sweep(tunnel.cell(EXPIRES_NS))
    assert_expired(rig, tunnel)


@pytest.mark.parametrize("ahead", [True, False])
def test_to_the_millisecond(rig: Rig, ahead: bool) -> None:
    """The sweep comes once a second; what falls due before the next one is not left to that."""
    expires = now() + SECOND // 5
    tunnel = rig.open("tcp", expires=NEVER if ahead else expires, expiry_code=DENIED)
    if ahead:
        rig.cells[tunnel.row + EXPIRES_NS] = expires
        rig.cells[tunnel.row + DEADLINE_NS] = expires
        rig.sweep(now())
    while not tunnel.client.read():
        rig.poller.select(0.01)
        assert now() - expires < 10 * SECOND
    assert now() >= expires
    assert now() - expires < SECOND // 2
    assert_expired(rig, tunnel)


def test_without_a_code(rig: Rig) -> None:
    tunnel = rig.open("unix", expires=now() + HOUR)
    rig.sweep(now() + HOUR)
    assert_expired(rig, tunnel, 1012)


def test_the_earlier_of_both_limits_counts(rig: Rig) -> None:
    tunnel = rig.open("unix", expires=now() + 2 * HOUR, expiry_code=DENIED, lifetime=HOUR)
    rig.sweep(now() + HOUR)
    rig.until(lambda: tunnel.client.read(), "the Close frame")
    assert close_frames(bytes(tunnel.client.received)) == [(1012, False)]
    another = rig.open("unix", expires=now() + HOUR, expiry_code=DENIED, lifetime=2 * HOUR)
    rig.sweep(now() + HOUR)
    rig.until(lambda: another.client.read(), "the Close frame")
    assert close_frames(bytes(another.client.received)) == [(DENIED, False)]


def test_at_frame_boundaries(rig: Rig) -> None:
    tunnel = rig.open("unix", expires=now() + HOUR, expiry_code=DENIED)
    data = [frame(BINARY, bytes(1000), masked=True), frame(BINARY, bytes(1000))]
    for side, piece in enumerate(data):
        tunnel.peer(side).send(piece[:500])
        rig.until(lambda side=side, piece=piece: tunnel.peer(1 - side).has(piece[:500]), "half a frame")
    rig.sweep(now() + HOUR)
    rig.rest()
    assert not tunnel.client.read()
    assert not tunnel.backend.read()
    for side, piece in enumerate(data):
        tunnel.peer(side).send(piece[500:] + frame(TEXT, b"too late", masked=side == CLIENT))
        rig.until(tunnel.peer(1 - side).read, "the rest")
        rig.rest()
        tunnel.peer(1 - side).read()
    assert tunnel.client.received.startswith(data[BACKEND_SIDE])
    assert tunnel.backend.received.startswith(data[CLIENT])
    del tunnel.client.received[: len(data[BACKEND_SIDE])]
    del tunnel.backend.received[: len(data[CLIENT])]
    assert_expired(rig, tunnel)


def test_an_opaque_tunnel_just_ends(rig: Rig) -> None:
    tunnel = rig.open("unix", kind=OPAQUE, expires=now() + HOUR, expiry_code=DENIED)
    rig.sweep(now() + HOUR)
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "max_lifetime")
    assert tunnel.client.has_ended()
    assert not tunnel.client.received


def test_a_half_closed_opaque_tunnel_ends_as_well(rig: Rig) -> None:
    tunnel = rig.open("unix", kind=OPAQUE, expires=now() + SECOND, expiry_code=DENIED)
    tunnel.client.half_close()
    rig.until(tunnel.backend.has_ended, "FIN")
    rig.sweep(now() + 2 * SECOND)
    rig.end()
    assert tunnel.client.has_ended()


def test_one_that_is_ending_is_left_alone(rig: Rig) -> None:
    tunnel = rig.open("unix", expires=now() + SECOND, expiry_code=DENIED)
    tunnel.client.send(closing(1000, masked=True))
    rig.until(tunnel.backend.read, "the Close frame")
    rig.sweep(now() + 2 * SECOND)
    rig.assert_live(tunnel)
    rig.sweep(now() + 2 * SECOND + CLOSE_WITHIN)
    end = rig.end()
    assert (end.initiator, end.cause) == ("client", "close_frame")


def test_a_successor_knows(rig: Rig) -> None:
    tunnel = rig.open("tcp", expires=now() + HOUR, expiry_code=DENIED)
    assert rig.succeed() == (1, 0, 0)
    assert tunnel.cell(DEADLINE_NS) == tunnel.cell(EXPIRES_NS)
    rig.sweep(now() + HOUR)
    assert_expired(rig, tunnel)


def test_a_new_worker_knows(pair: Pair) -> None:
    rig = pair.rig
    tunnel = rig.open("tcp", expires=now() + HOUR, expiry_code=DENIED)
    assert pair.move() == (1, [])
    pair.go_on_with_the_new_one()
    rig.poller.select(0)
    (row,) = rig.table.rows(1)
    rig.sweep(now() + HOUR)
    rig.until(lambda: tunnel.client.read() and tunnel.backend.read(), "the Close frames")
    assert close_frames(bytes(tunnel.client.received)) == [(DENIED, False)]
    assert rig.cells[row + STATE]


def test_a_row_from_a_program_that_did_not_know_expiry(rig: Rig) -> None:
    """Its tunnels live on: nobody has said when their credentials expire."""
    from gateway.tunnels.table.fields import defaults

    assert defaults("row")["EXPIRES_NS"] == NEVER
    row = rig.slice.allocate(0, 0)
    assert row is not None
    assert rig.cells[row + EXPIRES_NS] == NEVER
    rig.slice.release(row)
