"""Sides that only read are watched edge-triggered: whatever lies in a socket is found though epoll tells of it once."""

from __future__ import annotations

import socket

import pytest

from gateway.tunnels.relay.poller import RECEIVE_BUFFER_BYTES
from gateway.tunnels.table.layout import OPAQUE

from .harness import Rig

each_side = pytest.mark.parametrize("side", [0, 1], ids=["client", "backend"])
each_family = pytest.mark.parametrize("family", ["tcp", "unix"])


@each_side
@each_family
@pytest.mark.parametrize("extra", [-1, 0, 1, RECEIVE_BUFFER_BYTES])
def test_what_is_read_in_several_pieces(rig: Rig, side: int, family: str, extra: int) -> None:
    """All of it is in the socket before anybody looks, and nothing comes behind it that epoll could tell of."""
    tunnel = rig.open(family, kind=OPAQUE, buffers=8 * RECEIVE_BUFFER_BYTES)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    data = bytes(range(256)) * (RECEIVE_BUFFER_BYTES // 128 + 1)
    data = data[: RECEIVE_BUFFER_BYTES + extra]
    assert near.send(data) == len(data)
    rig.until(lambda: tunnel.unread(side) == len(data), "all to arrive", turn=None)
    rig.until(lambda: far.has(data), "all of it")
    rig.rest()


@each_side
@each_family
def test_the_end_comes_with_the_last_bytes(rig: Rig, side: int, family: str) -> None:
    tunnel = rig.open(family)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.send(b"the last words")
    near.half_close()
    rig.until(far.has_ended, "the FIN")
    assert (bytes(far.received), far.end) == (b"the last words", "fin")
    far.send(b"an answer")
    rig.until(lambda: near.has(b"an answer"), "the answer")
    rig.rest()


@each_side
def test_urgent_data(rig: Rig, side: int) -> None:
    """A read ends where urgent data is, whatever is behind it. The urgent byte itself is not the stream's."""
    tunnel = rig.open(kind=OPAQUE)
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    near.send(b"before")
    near.sock.send(b"!", socket.MSG_OOB)
    near.send(b"behind")
    rig.until(lambda: tunnel.unread(side) == len(b"before"), "it to arrive", turn=None)
    rig.until(lambda: far.has(b"beforebehind"), "what is behind it")
    rig.rest()
    near.send(b", and on")
    rig.until(lambda: far.has(b"beforebehind, and on"), "what comes later")


@each_side
def test_what_came_while_nobody_listened(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    near, far = tunnel.peer(side), tunnel.peer(1 - side)
    rig.relay.release(tunnel.row)
    near.send(b"anybody there?")
    rig.until(lambda: tunnel.unread(side) > 0, "it to arrive", turn=None)
    rig.rest()
    rig.relay.resume(tunnel.row)
    rig.until(lambda: far.has(b"anybody there?"), "it")
