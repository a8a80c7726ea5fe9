"""Pings of the gateway's own into a tunnel, the Pongs to them, and what else its endpoints send meanwhile."""

from __future__ import annotations

import pytest

from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, SIDES
from tests.support.frames import BINARY, CONTINUATION, PING, PONG, TEXT

from .harness import Rig, Tunnel
from .wire import closing, frame

BOTH = (CLIENT, BACKEND_SIDE)
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
LONG = {CLIENT: frame(BINARY, bytes(70_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(70_000))}
FRAGMENTS = {
    side: (
        frame(TEXT, b"first", masked=side == CLIENT, fin=False),
        frame(CONTINUATION, b"second", masked=side == CLIENT, fin=False),
        frame(CONTINUATION, b"third", masked=side == CLIENT),
    )
    for side in BOTH
}
CLOSE = {CLIENT: closing(1000, masked=True), BACKEND_SIDE: closing(1000, masked=False)}

both_sides = pytest.mark.parametrize("side", BOTH, ids=SIDES)


def send(rig: Rig, tunnel: Tunnel, side: int, data: bytes) -> None:
    """One side sends, the other receives just that."""
    peer = tunnel.peer(1 - side)
    before = len(peer.received)
    tunnel.peer(side).send(data)
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= before + len(data), "the bytes")
    assert peer.received[before:] == data


def control(data: bytes) -> tuple[int, bytes, bytes | None]:
    """Opcode, payload and mask of a control frame."""
    assert data[0] & 0xF0 == 0x80
    size = data[1] & 0x7F
    if not data[1] & 0x80:
        assert len(data) == 2 + size
        return data[0] & 0x0F, data[2:], None
    assert len(data) == 6 + size
    mask = data[2:6]
    return data[0] & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[6:])), mask


def ping(rig: Rig, tunnel: Tunnel, side: int) -> bytes:
    """Have a side sent a Ping; what it carried when it arrived."""
    peer = tunnel.peer(side)
    peer.read()
    before = len(peer.received)
    assert rig.relay.ping(tunnel.row, side)
    assert not tunnel.dirty
    size = 14 if side == BACKEND_SIDE else 10
    rig.until(lambda: peer.read() >= 0 and len(peer.received) >= before + size, "the Ping")
    opcode, payload, mask = control(bytes(peer.received[before:]))
    assert (opcode, len(payload), mask is not None) == (PING, 8, side == BACKEND_SIDE)
    del peer.received[before:]
    return payload


def pong(side: int, payload: bytes) -> bytes:
    return frame(PONG, payload, masked=side == CLIENT)


def answer(rig: Rig, tunnel: Tunnel, side: int, payload: bytes) -> None:
    """A side answers a Ping of the gateway's, and the other hears nothing of it."""
    heard = bytes(tunnel.peer(1 - side).received)
    pongs = rig.totals(side).pongs
    tunnel.peer(side).send(pong(side, payload))
    rig.until(lambda: rig.totals(side).pongs == pongs + 1, "the Pong to be taken")
    rig.rest()
    tunnel.peer(1 - side).read()
    assert tunnel.peer(1 - side).received == heard
    assert not tunnel.dirty
