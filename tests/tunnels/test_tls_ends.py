"""How tunnels end whose sides use TLS: close_notify, its absence, alerts, and records that are invalid."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.protocol.scanner_state import STATUS
from gateway.protocol.tls import alerts, state
from gateway.protocol.tls.content import APPLICATION_DATA, HANDSHAKE
from gateway.tunnels.relay.deadlines import heard_at
from gateway.tunnels.table.layout import (
    BACKEND_SIDE,
    BYTES,
    CLIENT,
    DRAIN,
    ENDED,
    OPAQUE,
    SCANNER,
    SHUT,
    SIDES,
    TLS,
    TRUNCATED,
)
from tests.support.frames import BINARY, TEXT

from .harness import CLOSE_WITHIN, Rig, Tunnel
from .states import BOTH, CLOSE, FLOOD, HELLO
from .tls_peers import BOTH_NEW, BOTH_OLD, KINDS, TLS12, TLS13, Own, Sides, TlsPeer, with_own_records
from .wire import close_frames, frame

EACH_SIDE = pytest.mark.parametrize("side", BOTH, ids=SIDES)
EACH_VERSION = pytest.mark.parametrize("suite", [TLS13, TLS12])


def tls(tunnel: Tunnel, side: int) -> TlsPeer:
    peer = tunnel.peer(side)
    assert isinstance(peer, TlsPeer)
    return peer


def own(tunnel: Tunnel, side: int) -> Own:
    """What makes a side's records, which can make others than OpenSSL does."""
    engine = tls(tunnel, side).engine
    assert isinstance(engine, Own)
    return engine


def used(rig: Rig, tunnel: Tunnel) -> None:
    for side in BOTH:
        tunnel.peer(side).send(HELLO[side])
        rig.until(lambda side=side: tunnel.peer(1 - side).has(HELLO[side]), "a message")


# --- close_notify -----------------------------------------------------------------------------------------------------


@EACH_SIDE
@pytest.mark.parametrize("kind", KINDS)
def test_an_end_is_passed_on_behind_everything(rig: Rig, kind: Sides, side: int) -> None:
    """With close_notify to a side that uses TLS, with FIN to any. The other direction stays open."""
    tunnel = rig.open(tls=kind)
    sink = tunnel.peer(1 - side)
    tunnel.peer(side).send(HELLO[side])
    tunnel.peer(side).half_close()
    rig.until(sink.has_ended, "the end")
    assert (sink.received, sink.end) == (HELLO[side], "fin")
    assert not isinstance(sink, TlsPeer) or sink.closed
    sink.send(HELLO[1 - side])
    rig.until(lambda: tunnel.peer(side).has(HELLO[1 - side]), "the other direction")
    sink.half_close()
    end = rig.end()
    assert (end.initiator, end.cause, end.cells[TRUNCATED]) == (SIDES[side], "fin", 0)
    rig.until(tunnel.peer(side).has_ended, "its end", turn=None)
    assert not isinstance(tunnel.peer(side), TlsPeer) or tls(tunnel, side).closed
    rig.assert_nothing_left(tunnel)


@EACH_SIDE
@EACH_VERSION
def test_close_notify_without_fin_is_an_end(rig: Rig, suite: str, side: int) -> None:
    tunnel = rig.open(tls=(suite, suite))
    tls(tunnel, side).put(tls(tunnel, side).engine.close())
    rig.until(tunnel.peer(1 - side).has_ended, "the end")
    assert tls(tunnel, 1 - side).closed
    assert tunnel.side(side, ENDED)
    # What comes behind it is nobody's: it costs nothing, and nothing waits for it.
    tls(tunnel, side).put(b"\x17\x03\x03\x00\x20 anything at all")
    rig.assert_live(tunnel)
    assert not tunnel.dirty
    tunnel.peer(1 - side).send(HELLO[1 - side])
    rig.until(lambda: tunnel.peer(side).has(HELLO[1 - side]), "the other direction")
    tunnel.peer(1 - side).half_close()
    assert rig.end().cause == "fin"


@EACH_SIDE
@EACH_VERSION
def test_close_notify_behind_data_in_one_read(rig: Rig, suite: str, side: int) -> None:
    tunnel = rig.open(tls=(suite, suite))
    engine = tls(tunnel, side).engine
    tls(tunnel, side).put(engine.seal(HELLO[side] * 3) + engine.close())
    rig.until(tunnel.peer(1 - side).has_ended, "the end")
    assert tunnel.peer(1 - side).received == HELLO[side] * 3
    assert not tunnel.dirty


@EACH_SIDE
def test_close_notify_waits_for_what_is_pending(rig: Rig, side: int) -> None:
    tunnel = rig.open(buffers=64 * 1024, tls=BOTH_NEW)
    sent = rig.stall(tunnel.peer(side), FLOOD[side])
    tunnel.peer(side).half_close()
    sink = tls(tunnel, 1 - side)
    rig.until(lambda: sink.read(100_000) >= 0 and sink.end, "the end")
    assert sink.received == sent
    assert sink.closed
    assert tunnel.side(1 - side, SHUT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_close_handshake(rig: Rig, kind: Sides) -> None:
    tunnel = rig.open(tls=kind)
    used(rig, tunnel)
    for side in BOTH:
        tunnel.peer(side).send(CLOSE[side])
        rig.until(lambda side=side: tunnel.peer(1 - side).has(HELLO[side] + CLOSE[side]), "a Close frame")
    tunnel.backend.half_close()
    rig.until(tunnel.client.has_ended, "the end")
    tunnel.client.half_close()
    assert rig.end().cause == "close_frame"
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end", turn=None)
        assert kind[side] is None or tls(tunnel, side).closed


@pytest.mark.parametrize("kind", KINDS)
def test_closed_by_the_gateway(rig: Rig, kind: Sides) -> None:
    tunnel = rig.open(tls=kind)
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    for side in BOTH:
        rig.until(tunnel.peer(side).read, "a Close frame")
        assert close_frames(bytes(tunnel.peer(side).received)) == [(1012, side == BACKEND_SIDE)]
        tunnel.peer(side).send(CLOSE[side])
    assert rig.end().cause == "drain"
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end", turn=None)
        assert kind[side] is None or tls(tunnel, side).closed


def test_cut_by_the_time_out_it_is_closed_all_the_same(rig: Rig) -> None:
    tunnel = rig.open(tls=BOTH_OLD)
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    rig.sweep(rig.relay.now + 2 * CLOSE_WITHIN)
    assert rig.end().cause == "drain"
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end", turn=None)
        assert tls(tunnel, side).closed


# --- no close_notify --------------------------------------------------------------------------------------------------


@EACH_SIDE
@pytest.mark.parametrize("kind", [BOTH_NEW, BOTH_OLD])
@pytest.mark.parametrize("half", [0, 7])
def test_fin_alone_is_a_truncation(rig: Rig, kind: Sides, side: int, half: int) -> None:
    """Recorded, and passed on as one: FIN alone, so that nobody takes what came for the whole."""
    tunnel = rig.open(tls=kind)
    peer = tls(tunnel, side)
    peer.put(peer.engine.seal(HELLO[side]))
    peer.put(peer.engine.seal(HELLO[side])[:half])
    peer.sock.shutdown(1)
    sink = tls(tunnel, 1 - side)
    rig.until(sink.has_ended, "the end")
    assert sink.received == HELLO[side]
    assert not sink.closed
    sink.half_close()
    end = rig.end()
    assert (end.initiator, end.cause, end.cells[TRUNCATED]) == (SIDES[side], "fin", 1 << side)
    rig.assert_nothing_left(tunnel)


@EACH_SIDE
def test_fin_alone_behind_a_close_frame_is_none(rig: Rig, side: int) -> None:
    """The Close frame has said that nothing follows (RFC 6455 5.5.1)."""
    tunnel = rig.open(tls=BOTH_NEW)
    tunnel.peer(side).send(CLOSE[side])
    rig.until(lambda: tunnel.peer(1 - side).has(CLOSE[side]), "the Close frame")
    tunnel.peer(side).sock.shutdown(1)
    rig.until(tunnel.peer(1 - side).has_ended, "the end")
    assert tls(tunnel, 1 - side).closed
    tunnel.peer(1 - side).half_close()
    assert rig.end().cells[TRUNCATED] == 0


def test_a_lost_backend_is_told_to_the_client(rig: Rig) -> None:
    tunnel = rig.open(tls=BOTH_NEW, on_loss=1012)
    tunnel.backend.sock.shutdown(1)
    rig.until(tunnel.client.has_ended, "the end")
    assert close_frames(bytes(tunnel.client.received)) == [(1012, False)]
    assert tls(tunnel, CLIENT).closed, "its Close frame says that all is in order between the client and the gateway"


@EACH_SIDE
def test_a_reset_is_no_regular_end(rig: Rig, side: int) -> None:
    tunnel = rig.open(tls=BOTH_NEW)
    used(rig, tunnel)
    tunnel.peer(side).reset()
    sink = tls(tunnel, 1 - side)
    rig.until(sink.has_ended, "the end")
    assert not sink.closed
    sink.half_close()
    assert rig.end().cause == "reset"


# --- records that are invalid -----------------------------------------------------------------------------------------


def changed(engine: Own) -> bytes:
    record = bytearray(engine.seal(b"never to be seen"))
    record[-1] ^= 1
    return bytes(record)


def too_large(engine: Own) -> bytes:
    return b"\x17\x03\x03\xff\xff"


def no_tls(engine: Own) -> bytes:
    return b"GET / HTTP/1.1\r\n\r\n"


def renegotiation(engine: Own) -> bytes:
    return engine.end.record(HANDSHAKE, b"\x01\0\0\x01x")


BAD = {
    changed: alerts.BAD_RECORD_MAC,
    too_large: alerts.RECORD_OVERFLOW,
    no_tls: alerts.UNEXPECTED_MESSAGE,
}


@EACH_SIDE
@EACH_VERSION
@pytest.mark.parametrize("bad", BAD)
def test_invalid_records_end_the_tunnel(rig: Rig, bad: Callable[[Own], bytes], suite: str, side: int) -> None:
    """What came before them is relayed. Their sender gets an alert, the other side a Close frame."""
    tunnel = rig.open(tls=(suite, suite), engines=with_own_records, on_loss=1011)
    sink = tls(tunnel, 1 - side)
    tls(tunnel, side).put(own(tunnel, side).seal(HELLO[side]) + bad(own(tunnel, side)))
    rig.until(tunnel.peer(side).has_ended, "its end")
    assert f": {BAD[bad]}" in tls(tunnel, side).alert
    rig.until(lambda: sink.read() >= 0 and len(sink.received) > len(HELLO[side]), "a Close frame")
    assert sink.received.startswith(HELLO[side])
    expected = (1001, True) if side == CLIENT else (1011, False)
    assert close_frames(bytes(sink.received[len(HELLO[side]) :])) == [expected]
    sink.send(CLOSE[1 - side])
    sink.half_close()
    end = rig.end()
    assert (end.initiator, end.cause, end.decided.cut) == ("gateway", "protocol_error", -1)
    rig.assert_nothing_left(tunnel)


def test_renegotiation_is_refused(rig: Rig) -> None:
    tunnel = rig.open(tls=(TLS12, None), engines=with_own_records)
    tls(tunnel, CLIENT).put(renegotiation(own(tunnel, CLIENT)))
    rig.until(tunnel.backend.read, "a Close frame")
    tunnel.backend.half_close()
    assert rig.end().cause == "protocol_error"


@EACH_SIDE
def test_invalid_records_within_another_protocol(rig: Rig, side: int) -> None:
    tunnel = rig.open(kind=OPAQUE, tls=BOTH_NEW, engines=with_own_records)
    tls(tunnel, side).put(own(tunnel, side).seal(b"before") + changed(own(tunnel, side)))
    sink = tls(tunnel, 1 - side)
    rig.until(sink.has_ended, "the end")
    assert (sink.received, sink.closed) == (b"before", False)
    sink.half_close()
    assert rig.end().cause == "protocol_error"


@EACH_SIDE
def test_an_alert_that_is_fatal_is_as_a_reset(rig: Rig, side: int) -> None:
    tunnel = rig.open(tls=BOTH_NEW, engines=with_own_records)
    tls(tunnel, side).put(own(tunnel, side).end.refuse(alerts.DECODE_ERROR))
    sink = tls(tunnel, 1 - side)
    rig.until(sink.has_ended, "the end")
    assert not sink.closed
    sink.half_close()
    end = rig.end()
    assert (end.initiator, end.cause) == (SIDES[side], "reset")
    rig.assert_nothing_left(tunnel)


def test_invalid_records_while_it_ends_anyway(rig: Rig) -> None:
    tunnel = rig.open(tls=BOTH_NEW, engines=with_own_records)
    rig.relay.close_tunnel(tunnel.row, 1012, DRAIN)
    tls(tunnel, CLIENT).put(changed(own(tunnel, CLIENT)))
    assert rig.end().cause == "drain"
    rig.assert_nothing_left(tunnel)


def test_floods_of_records_without_data_end(rig: Rig) -> None:
    tunnel = rig.open(tls=BOTH_NEW, engines=with_own_records)
    for _ in range(40):
        tls(tunnel, CLIENT).put(own(tunnel, CLIENT).end.record(APPLICATION_DATA, b""))
    tunnel.backend.half_close()
    assert rig.end().cause == "protocol_error"


# --- new keys ---------------------------------------------------------------------------------------------------------


@EACH_SIDE
def test_new_keys_are_answered(rig: Rig, side: int) -> None:
    tunnel = rig.open(tls=BOTH_NEW, engines=with_own_records)
    end = own(tunnel, side).end
    secret = [end[state.IN_SECRET + n] for n in range(6)]
    for wanted in (1, 0, 1):
        tls(tunnel, side).put(own(tunnel, side).seal(HELLO[side]) + end.update_keys(wanted))
        tls(tunnel, side).put(own(tunnel, side).seal(HELLO[side]))
        rig.rest()
        tunnel.peer(1 - side).send(HELLO[1 - side])
        rig.rest()
        tunnel.peer(side).read()
        changed_keys = [end[state.IN_SECRET + n] for n in range(6)]
        assert (changed_keys != secret) == wanted
        secret = changed_keys
    assert tunnel.peer(1 - side).has(HELLO[side] * 6)
    assert tunnel.peer(side).has(HELLO[1 - side] * 3)
    rig.rest()
    assert not tunnel.dirty


def test_the_answer_waits_for_what_is_pending(rig: Rig) -> None:
    """One answer for all of them, however many come: a peer that reads nothing makes no memory grow."""
    tunnel = rig.open(buffers=64 * 1024, tls=BOTH_NEW, engines=with_own_records)
    sent = rig.stall(tunnel.backend, frame(BINARY, bytes(50_000)))
    pending, came = tunnel.pending[CLIENT], tunnel.side(BACKEND_SIDE, BYTES)
    end = own(tunnel, CLIENT).end
    for _ in range(300):
        tls(tunnel, CLIENT).put(end.update_keys(1) + own(tunnel, CLIENT).seal(HELLO[CLIENT]))
        rig.rest()
    came = tunnel.side(BACKEND_SIDE, BYTES) - came  # the kernel may take more after a while: then the relay reads on
    assert tunnel.pending[CLIENT] <= pending + 1.05 * came
    before = [end[state.IN_SECRET + n] for n in range(6)]
    rig.until(lambda: tunnel.client.read(100_000) >= 0 and len(tunnel.client.received) == len(sent), "all of it")
    rig.rest()
    assert tunnel.client.has(sent)
    tunnel.backend.send(HELLO[BACKEND_SIDE])
    rig.until(lambda: tunnel.client.has(sent + HELLO[BACKEND_SIDE]), "a message under new keys")
    assert [end[state.IN_SECRET + n] for n in range(6)] != before
    assert tunnel.backend.has(HELLO[CLIENT] * 300)
    assert not tunnel.dirty


# --- Pings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pings_of_the_gateway(rig: Rig, kind: Sides) -> None:
    """Sealed like everything else; the Pong is taken out, however it is cut into records."""
    tunnel = rig.open(tls=kind)
    used(rig, tunnel)
    for side in BOTH:
        peer = tunnel.peer(side)
        for cut_at in (0, 1, 5):
            before = len(peer.received)
            assert rig.relay.ping(tunnel.row, side)
            rig.until(peer.read, "a Ping")
            ping = bytes(peer.received[before:])
            payload = ping[2:] if side == CLIENT else bytes(b ^ ping[2 + i % 4] for i, b in enumerate(ping[6:]))
            pong = frame(0xA, payload, masked=side == CLIENT)
            other = len(tunnel.peer(1 - side).received)
            for piece in (pong[:cut_at], pong[cut_at:] + HELLO[side]):
                if piece:
                    peer.send(piece)
                    rig.rest()
            rig.until(
                lambda other=other, side=side: (
                    tunnel.peer(1 - side).read() or len(tunnel.peer(1 - side).received) > other
                ),
                "a message",
            )
            assert tunnel.peer(1 - side).received[other:] == HELLO[side]
        assert rig.totals(side).pongs == 3
    assert not tunnel.dirty


def test_a_record_on_its_way_is_a_sign_of_life(rig: Rig) -> None:
    """A slow connection may take long for a large record: its sender is not dead meanwhile."""
    tunnel = rig.open(tls=(TLS13, None), engines=with_own_records, ping_after=(10**9, 1 << 62))
    wire = own(tunnel, CLIENT).seal(frame(TEXT, bytes(1000), masked=True))
    tunnel.age(5 * 10**9)
    tls(tunnel, CLIENT).put(wire[:100])
    rig.rest()
    assert rig.relay.now - heard_at(rig.cells, tunnel.row, CLIENT) < 10**9
    assert tunnel.side(CLIENT, SCANNER + STATUS) == 0
    assert rig.cells[tunnel.side(CLIENT, TLS) + state.HALF] == 100
