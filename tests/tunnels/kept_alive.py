"""Tunnels that keepalive looks after: walks of the sweep over them, and whom it finds alive or dead."""

from __future__ import annotations

import time

from gateway.tunnels.relay import deadlines
from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, NEVER, PING_TAG, PINGS_SENT
from gateway.tunnels.upkeep.sweep import TICK_NS
from tests.support.frames import PONG

from .harness import NS, PONG_WITHIN, Rig, Tunnel
from .wire import close_frames, closing, frame

AFTER = 10 * NS
PING_SIZE = {CLIENT: 10, BACKEND_SIDE: 14}


def only(side: int, after: int = AFTER) -> tuple[int, int]:
    """Intervals, with one side kept alive."""
    return (after, NEVER) if side == CLIENT else (NEVER, after)


def send(rig: Rig, tunnel: Tunnel, side: int, data: bytes) -> None:
    """One side sends, the other receives."""
    peer = tunnel.peer(1 - side)
    before = len(peer.received)
    tunnel.peer(side).send(data)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= before + len(data), "the bytes")


def pong(tunnel: Tunnel, side: int) -> bytes:
    """The answer to the latest Ping."""
    payload = tunnel.side(side, PING_TAG).to_bytes(4, "big") + tunnel.side(side, PINGS_SENT).to_bytes(4, "big")
    return frame(PONG, payload, masked=side == CLIENT)


def due(tunnel: Tunnel, side: int) -> int:
    return deadlines.keepalive_due(tunnel.rig.cells, tunnel.row, side)


def walk(rig: Rig) -> None:
    """One walk, and every tick until the next."""
    now = time.monotonic_ns()
    more = rig.sweeper.walk(now)
    while more:
        now += TICK_NS
        more = rig.sweeper.tick(now)


def pinged(rig: Rig, side: int, after: int = AFTER, family: str = "tcp", timeout: int = PONG_WITHIN) -> Tunnel:
    """A tunnel with a side that was silent for its interval, and was sent a Ping."""
    tunnel = rig.open(family, on_loss=1012, ping_after=only(side, after), pong_timeout=timeout)
    tunnel.age(after)
    walk(rig)
    assert tunnel.side(side, PINGS_SENT) == 1
    peer = tunnel.peer(side)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= PING_SIZE[side], "the Ping")
    peer.received.clear()
    return tunnel


def assert_alive(rig: Rig, tunnel: Tunnel, side: int) -> None:
    """A walk finds nothing wrong with it."""
    walk(rig)
    rig.assert_live(tunnel)
    assert rig.totals(side).timeouts == 0


def assert_dead(rig: Rig, tunnel: Tunnel, side: int, before: bytes = b"") -> None:
    """A walk finds a side dead: the other is told, says goodbye, and the end is put down to the side's silence."""
    walk(rig)
    assert rig.totals(side).timeouts == 1
    other = tunnel.peer(1 - side)
    rig.until(other.has_ended, "FIN")
    assert other.received[: len(before)] == before
    code = 1001 if side == CLIENT else 1012
    assert close_frames(bytes(other.received[len(before) :])) == [(code, side == CLIENT)]
    rig.assert_live(tunnel)
    other.send(closing(code, masked=side == BACKEND_SIDE))
    end = rig.end()
    assert (end.initiator, end.cause) == ("gateway", "ping_timeout")
    assert (end.decided.cut, end.decided.exact) == (side, False)
    rig.assert_nothing_left(tunnel)
