"""A backend that vanishes: what its client is told, when, and where it cannot be told anything."""

from __future__ import annotations

import pytest

from gateway.protocol.scanner_state import CLOSE_CODE
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    CLIENT,
    CLOSE_CODE_SENT,
    CLOSE_NS,
    CLOSING_NS,
    DEADLINE_NS,
    NEVER,
    OPAQUE,
    PACED_NS,
    SCANNER,
)
from tests.support.frames import BINARY, TEXT

from .harness import CLOSE_WITHIN, NS, Rig, Tunnel
from .wire import close_frames, closing, frame

BUFFERS = 64 * 1024
HELLO = {CLIENT: frame(TEXT, b"from the client", masked=True), BACKEND_SIDE: frame(TEXT, b"from the backend")}
FLOOD = frame(BINARY, bytes(50_000))
TOLD = closing(1012, masked=False)
ANSWER = closing(1012, masked=True)
WAIT = 3 * NS

ways = pytest.mark.parametrize("way", ["half_close", "close", "reset"])
CAUSES = {"half_close": "fin", "close": "fin", "reset": "reset"}


def lose(tunnel: Tunnel, way: str) -> None:
    getattr(tunnel.backend, way)()


def put_off(rig: Rig) -> None:
    """Have clients told only after a while."""
    rig.told_at = lambda row: rig.relay.now + WAIT


def assert_ends(rig: Rig, tunnel: Tunnel, cause: str, code: int = 1012) -> None:
    """The tunnel ends, by its backend's doing."""
    end = rig.end()
    assert (end.initiator, end.cause, end.cells[CLOSE_CODE_SENT]) == ("backend", cause, code)
    rig.assert_nothing_left(tunnel)


# --- at once ----------------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("code", [1012, 4000])
def test_the_client_is_told_behind_what_was_sent(rig: Rig, way: str, code: int) -> None:
    tunnel = rig.open(on_loss=code)
    tunnel.backend.send(HELLO[BACKEND_SIDE])
    rig.until(lambda: tunnel.client.has(HELLO[BACKEND_SIDE]), "the message")
    lose(tunnel, way)
    rig.until(tunnel.client.has_ended, "the end")
    assert close_frames(bytes(tunnel.client.received[len(HELLO[BACKEND_SIDE]) :])) == [(code, False)]
    assert tunnel.client.end == "fin"
    rig.assert_live(tunnel)
    tunnel.client.send(closing(code, masked=True))
    assert_ends(rig, tunnel, CAUSES[way], code)
    if way == "half_close":
        rig.until(tunnel.backend.has_ended, "the backend's end")
        assert tunnel.backend.received == b""  # the answer was to the gateway


@ways
def test_a_client_that_does_not_answer_is_cut(rig: Rig, way: str) -> None:
    tunnel = rig.open(on_loss=1012)
    lose(tunnel, way)
    rig.until(lambda: tunnel.client.has(TOLD), "the Close frame")
    told_at = tunnel.cell(CLOSING_NS)
    rig.sweep(told_at + CLOSE_WITHIN - 1)
    rig.assert_live(tunnel)
    rig.sweep(told_at + CLOSE_WITHIN)
    assert_ends(rig, tunnel, CAUSES[way])


def test_a_client_that_just_goes_is_let_go(rig: Rig) -> None:
    for way in ("half_close", "close", "reset"):
        tunnel = rig.open(on_loss=1012)
        tunnel.backend.reset()
        rig.until(lambda tunnel=tunnel: tunnel.client.has(TOLD), "the Close frame")
        getattr(tunnel.client, way)()
        assert_ends(rig, tunnel, "reset")


@pytest.mark.parametrize("way", ["half_close", "close"])
def test_what_is_pending_comes_first(rig: Rig, way: str) -> None:
    tunnel = rig.open(buffers=BUFFERS, on_loss=1012)
    sent = bytearray(rig.stall(tunnel.backend, FLOOD))
    assert tunnel.pending[CLIENT]
    rest = (FLOOD * 2)[len(sent) % len(FLOOD) : len(FLOOD)]

    def send_rest() -> bool:
        nonlocal rest
        tunnel.client.read(limit=20_000)
        took = tunnel.backend.send(rest) if rest else 0
        sent.extend(rest[:took])
        rest = rest[took:]
        return not rest

    rig.until(send_rest, "the flood's last frame to be sent")
    lose(tunnel, way)
    rig.until(tunnel.client.has_ended, "the end")
    assert tunnel.client.received == sent + TOLD
    tunnel.client.send(ANSWER)
    assert_ends(rig, tunnel, "fin")


def test_a_loss_that_shows_when_something_is_sent(rig: Rig) -> None:
    tunnel = rig.open(on_loss=1012)
    tunnel.backend.send(HELLO[BACKEND_SIDE])
    tunnel.backend.reset()
    rig.relay.feed(tunnel.row, CLIENT, HELLO[CLIENT])
    rig.until(tunnel.client.has_ended, "the end")
    assert tunnel.client.received == HELLO[BACKEND_SIDE] + TOLD
    tunnel.client.send(ANSWER)
    assert_ends(rig, tunnel, "reset")


def test_between_fragments(rig: Rig) -> None:
    tunnel = rig.open(on_loss=1012)
    first = frame(TEXT, b"first", fin=False)
    tunnel.backend.send(first)
    tunnel.backend.close()
    rig.until(lambda: tunnel.client.has(first + TOLD), "the Close frame")
    tunnel.client.send(ANSWER)
    assert_ends(rig, tunnel, "fin")


# --- where there is nothing to be told --------------------------------------------------------------------------------


def assert_just_ends(rig: Rig, tunnel: Tunnel, received: bytes, initiator: str, cause: str) -> None:
    """The client gets what came, and FIN."""
    rig.until(tunnel.client.has_ended, "the end")
    assert (tunnel.client.received, tunnel.client.end) == (received, "fin")
    tunnel.client.close()
    end = rig.end()
    assert (end.initiator, end.cause, end.cells[CLOSE_CODE_SENT]) == (initiator, cause, 0)
    rig.assert_nothing_left(tunnel)


@ways
def test_off_means_fin(rig: Rig, way: str) -> None:
    tunnel = rig.open()
    lose(tunnel, way)
    assert_just_ends(rig, tunnel, b"", "backend", CAUSES[way])


@ways
@pytest.mark.parametrize("size", [1, 3, len(HELLO[BACKEND_SIDE]) - 1])
def test_within_a_frame_no_close_frame_can_stand(rig: Rig, way: str, size: int) -> None:
    tunnel = rig.open(on_loss=1012)
    part = HELLO[BACKEND_SIDE][:size]
    tunnel.backend.send(part)
    rig.until(lambda: tunnel.client.has(part), "a part of a frame")
    lose(tunnel, way)
    assert_just_ends(rig, tunnel, part, "backend", CAUSES[way])


@ways
def test_a_stream_that_is_no_websocket_just_ends(rig: Rig, way: str) -> None:
    opaque = rig.open(kind=OPAQUE, on_loss=1012)
    lose(opaque, way)
    assert_just_ends(rig, opaque, b"", "backend", CAUSES[way])
    broken = rig.open(on_loss=1012)
    broken.backend.send(b"\xff" * 9)
    rig.until(lambda: broken.client.has(b"\xff" * 9), "nonsense")
    lose(broken, way)
    assert_just_ends(rig, broken, b"\xff" * 9, "backend", CAUSES[way])


@ways
def test_a_backend_that_said_close_has_not_vanished(rig: Rig, way: str) -> None:
    tunnel = rig.open(on_loss=1012)
    goodbye = closing(1000, masked=False)
    tunnel.backend.send(goodbye)
    lose(tunnel, way)
    assert_just_ends(rig, tunnel, goodbye, "backend", "close_frame")


@ways
def test_a_client_that_said_close_gets_no_other_code(rig: Rig, way: str) -> None:
    tunnel = rig.open(on_loss=1012)
    goodbye = closing(1000, masked=True)
    tunnel.client.send(goodbye)
    rig.until(lambda: tunnel.backend.has(goodbye), "the Close frame")
    lose(tunnel, way)
    assert_just_ends(rig, tunnel, b"", "client", "close_frame")


def test_a_client_that_went_first_did_not_lose_its_backend(rig: Rig) -> None:
    tunnel = rig.open(on_loss=1012)
    tunnel.client.half_close()
    rig.until(tunnel.backend.has_ended, "FIN")
    tunnel.backend.close()
    assert_just_ends(rig, tunnel, b"", "client", "fin")


# --- in its turn ------------------------------------------------------------------------------------------------------


@ways
def test_the_client_hears_nothing_until_its_turn_has_come(rig: Rig, way: str) -> None:
    put_off(rig)
    tunnel = rig.open(on_loss=1012)
    tunnel.backend.send(HELLO[BACKEND_SIDE])
    lose(tunnel, way)
    rig.until(lambda: tunnel.cell(PACED_NS), "the loss")
    turn = tunnel.cell(PACED_NS)
    assert tunnel.cell(DEADLINE_NS) == turn
    rig.sweep(turn - 1)
    rig.assert_live(tunnel)
    tunnel.client.read()
    assert (tunnel.client.received, tunnel.client.end) == (HELLO[BACKEND_SIDE], "")
    tunnel.client.send(HELLO[CLIENT] * 3)  # it does not know
    rig.assert_live(tunnel)
    rig.sweep(turn)
    rig.until(tunnel.client.has_ended, "the Close frame and FIN")
    assert tunnel.client.received == HELLO[BACKEND_SIDE] + TOLD
    tunnel.client.send(ANSWER)
    assert_ends(rig, tunnel, CAUSES[way])


def test_a_turn_later_than_the_time_to_close_comes_all_the_same(rig: Rig) -> None:
    """The time to answer begins when the client is told."""
    put_off(rig)
    tunnel = rig.open(on_loss=1012)
    rig.cells[tunnel.row + CLOSE_NS] = NS
    tunnel.backend.reset()
    rig.until(lambda: tunnel.cell(PACED_NS), "the loss")
    rig.sweep(tunnel.cell(CLOSING_NS) + 2 * NS)
    rig.assert_live(tunnel)
    rig.sweep(tunnel.cell(PACED_NS))
    rig.until(lambda: tunnel.client.has(TOLD), "the Close frame")
    rig.sweep(tunnel.cell(CLOSING_NS) + NS)
    assert_ends(rig, tunnel, "reset")


@pytest.mark.parametrize("way", ["half_close", "close", "reset"])
def test_a_client_that_goes_before_its_turn_is_let_go(rig: Rig, way: str) -> None:
    put_off(rig)
    tunnel = rig.open(on_loss=1012)
    tunnel.backend.reset()
    rig.until(lambda: tunnel.cell(PACED_NS), "the loss")
    getattr(tunnel.client, way)()
    end = rig.end()
    assert (end.initiator, end.cause) == ("backend", "reset")
    rig.assert_nothing_left(tunnel)


@pytest.mark.parametrize("way", ["half_close", "reset"])
def test_a_client_that_closes_before_its_turn_is_answered_at_the_next_sweep(rig: Rig, way: str) -> None:
    put_off(rig)
    tunnel = rig.open(on_loss=1012)
    lose(tunnel, way)
    rig.until(lambda: tunnel.cell(PACED_NS), "the loss")
    tunnel.client.send(closing(1000, masked=True))
    rig.until(lambda: tunnel.side(CLIENT, SCANNER + CLOSE_CODE), "the client's Close frame")
    rig.rest()
    assert tunnel.cell(DEADLINE_NS) <= rig.relay.now
    rig.sweep(rig.relay.now)
    rig.until(tunnel.client.has_ended, "the answer")
    assert tunnel.client.received == TOLD
    assert_ends(rig, tunnel, CAUSES[way])


def test_a_drain_that_was_planned_is_off_when_the_backend_vanishes(rig: Rig) -> None:
    tunnel = rig.open(on_loss=4000)
    rig.cells[tunnel.row + PACED_NS] = NEVER - 1
    tunnel.backend.close()
    rig.until(tunnel.client.has_ended, "the end")
    assert close_frames(bytes(tunnel.client.received)) == [(4000, False)]
    assert tunnel.cell(PACED_NS) == 0
    tunnel.client.send(closing(4000, masked=True))
    assert_ends(rig, tunnel, "fin", 4000)
