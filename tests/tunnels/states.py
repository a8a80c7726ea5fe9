"""States that a tunnel can be in, and how it gets there; what its endpoints send for that."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CLOSING_NS,
    DRAIN,
    FRAME_LIMIT,
    GATE,
    HELD,
    LAST_NS,
    LIMITED,
    MESSAGE_BURST_NS,
    MESSAGE_NS,
    ON_LOSS_CODE,
    PACED_NS,
    PING_AFTER_NS,
    RTT_NS,
    SIDE_0,
    SIDE_CELLS,
    TALKS,
)
from tests.support.frames import BINARY, PING, PONG, TEXT

from .harness import NS, Rig, Tunnel
from .wire import closing, frame

BUFFERS = 64 * 1024
BOTH = (CLIENT, BACKEND_SIDE)
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
LONG = {CLIENT: frame(BINARY, bytes(70_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(70_000))}
CLOSE = {CLIENT: closing(1000, masked=True), BACKEND_SIDE: closing(1000, masked=False)}
FLOOD = {CLIENT: frame(BINARY, bytes(50_000), masked=True), BACKEND_SIDE: frame(BINARY, bytes(50_000))}

both_families = pytest.mark.parametrize("family", ["tcp", "unix"])


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


def stalled(rig: Rig, tunnel: Tunnel) -> None:
    rig.stall(tunnel.backend, FLOOD[BACKEND_SIDE])


def limited(rig: Rig, tunnel: Tunnel) -> None:
    """The client has sent all messages that it may send now, and a piece of the header of another."""
    for side in BOTH:
        tunnel.write_side(side, FRAME_LIMIT, 70_000)
        tunnel.write_side(1 - side, GATE, LIMITED)
    tunnel.write_side(CLIENT, MESSAGE_NS, 60 * NS)
    tunnel.write_side(CLIENT, MESSAGE_BURST_NS, 90 * NS)
    tunnel.client.send(HELLO[CLIENT] + LONG[CLIENT][:13])
    rig.until(lambda: tunnel.backend.has(HELLO[CLIENT]), "the message")
    tunnel.backend.send(LONG[BACKEND_SIDE][:1000])
    rig.until(lambda: tunnel.client.has(LONG[BACKEND_SIDE][:1000]), "a piece of a frame")


def cut_off(rig: Rig, tunnel: Tunnel) -> None:
    """With TLS: FIN without close_notify."""
    tunnel.client.sock.shutdown(socket.SHUT_WR)
    rig.until(tunnel.backend.has_ended, "FIN")


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
    limited,
]
"""In each of these the row is clean once its worker has nothing to do."""
