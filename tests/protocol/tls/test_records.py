"""Records against OpenSSL's, byte for byte, in both directions, for each suite."""

import contextlib
import random
import ssl

import pytest

from gateway.protocol.tls import alerts
from gateway.protocol.tls.content import (
    ALERT,
    APPLICATION_DATA,
    BROKEN,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO,
    CLOSED,
    FATAL_ALERT,
    HANDSHAKE,
    KEY_UPDATE,
    MAX_EMPTY_RECORDS,
    MAX_KEY_UPDATES,
    NEW_SESSION_TICKET,
    NOTHING,
    RECORDS_BY_KEY,
    SILENCE_NS,
    SMALL_BURST_BYTES,
    SMALL_BYTES,
)
from gateway.protocol.tls.state import ANSWER_DUE, IN_CLOSED, IN_SEQ, OUT_SEQ
from tests.protocol.tls.ends import End, Ends
from tests.protocol.tls.openssl import TLS12_SUITES, TLS13_SUITES, Pair, records_of

TLS13 = TLS13_SUITES[0]
TLS12 = TLS12_SUITES[1]
SIZES = (1, 64, 16384, SMALL_BYTES, 7, 16383, 3 * 16384 + 5)


def some(size):
    return random.Random(size).randbytes(size)


@pytest.fixture(params=TLS13_SUITES + TLS12_SUITES)
def ends(request):
    return Ends(request.param)


@pytest.fixture(params=[TLS13, TLS12])
def each(request):
    """One of each version."""
    return Ends(request.param)


@pytest.fixture
def tls13():
    return Ends(TLS13)


# --- against OpenSSL --------------------------------------------------------------------------------------------------


def test_the_same_bytes_as_openssl(ends):
    """OpenSSL goes on beside us, and puts the same on the wire to the last bit."""
    for size in SIZES:
        data = some(size)
        theirs = ends.openssl.server_sends(data)
        assert ends.server.send_large(data) == theirs
        assert ends.client.read(theirs) == data
        theirs = ends.openssl.client_sends(data)
        assert ends.client.send_large(data) == theirs
        assert ends.server.read(theirs) == data


def test_openssl_reads_what_we_send(ends):
    """With small records first."""
    data = some(100_000)
    wire = ends.server.send(data)
    assert len(records_of(wire)) > 10
    assert ends.openssl.client_reads(wire) == data
    assert ends.openssl.server_reads(ends.client.send(data)) == data


def test_any_chunking_gives_the_same(ends):
    data = some(3000)
    wire = (
        ends.openssl.client_sends(data[:10]) + ends.openssl.client_sends(data[10:]) + ends.openssl.client_sends(b"end")
    )
    assert b"".join(ends.server.read(wire[n : n + 1]) for n in range(len(wire))) == data + b"end"
    assert not ends.server.half


def test_tickets_are_skipped():
    pair = Pair(TLS13, tickets=2)
    client = End(pair.dialled)
    tickets = pair.to_client.read()
    assert len(records_of(tickets)) == 2
    wire = tickets + pair.server_sends(b"data")
    assert b"".join(client.read(wire[n : n + 1]) for n in range(len(wire))) == b"data"


def test_the_number_of_tickets_counts():
    pair = Pair(TLS13, tickets=2)
    pair.to_client.read()
    assert End(pair.accepted).send(b"data") == pair.server_sends(b"data")


# --- the end ----------------------------------------------------------------------------------------------------------


def test_close_notify(each):
    assert each.server.read(each.openssl.client_sends(b"last") + _close_of(each.openssl)) == b"last"
    assert each.server.records.event == CLOSED
    assert each.server[IN_CLOSED] == 1
    assert each.openssl.client_reads(each.server.send(b"still") + each.server.close()) == b"still"
    assert each.server.close() == b""
    assert each.server.refuse(alerts.DECODE_ERROR) == b""


def _close_of(pair):
    with contextlib.suppress(ssl.SSLWantReadError):
        pair.client.unwrap()
    return pair.to_server.read()


def test_a_fatal_alert(each):
    assert each.server.read(each.client.refuse(alerts.DECODE_ERROR)) == b""
    assert (each.server.records.event, each.server.records.alert) == (FATAL_ALERT, alerts.DECODE_ERROR)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert|mac"):
        each.openssl.client_reads(each.server.refuse(alerts.BAD_RECORD_MAC))


@pytest.mark.parametrize(
    ("suite", "kind", "data", "expected"),
    [
        (TLS13, ALERT, b"\x01\x0a", FATAL_ALERT),  # whatever its level says
        (TLS12, ALERT, b"\x01\x0a", NOTHING),
        (TLS12, ALERT, b"\x02\x0a", FATAL_ALERT),
        (TLS13, ALERT, b"\x01\x5a", NOTHING),  # user_canceled
        (TLS13, ALERT, b"\x01", BROKEN),
        (TLS13, ALERT, b"", BROKEN),
        (TLS13, ALERT, b"\x01\x00\x00", BROKEN),
        (TLS13, HANDSHAKE, b"", BROKEN),
        (TLS12, CHANGE_CIPHER_SPEC, b"\x01", BROKEN),
        (TLS13, CHANGE_CIPHER_SPEC, b"\x01", BROKEN),
        (TLS13, 99, b"x", BROKEN),
        (TLS13, HANDSHAKE, bytes((CLIENT_HELLO, 0, 0, 9)), BROKEN),
        (TLS13, HANDSHAKE, bytes((NEW_SESSION_TICKET, 0, 0, 9)), BROKEN),  # from a client
        (TLS13, HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 2, 0, 0)), BROKEN),
        (TLS13, HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 1, 2)), BROKEN),
        (TLS13, HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE)), BROKEN),  # keys change within a record
        (TLS12, HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 1, 0)), BROKEN),
    ],
)
def test_what_a_client_may_send_besides_data(suite, kind, data, expected):
    ends = Ends(suite)
    assert ends.server.read(ends.client.record(kind, data)) == b""
    assert ends.server.records.event == expected


def test_renegotiation_is_refused():
    ends = Ends(TLS12)
    ends.server.read(ends.client.record(HANDSHAKE, bytes((CLIENT_HELLO, 0, 1, 0)) + bytes(256)))
    assert (ends.server.records.event, ends.server.records.alert) == (BROKEN, alerts.NO_RENEGOTIATION)
    assert ends.client.read(ends.server.refuse(ends.server.records.alert)) == b""
    assert ends.client.records.event == NOTHING  # a warning


def test_a_hello_request_is_ignored():
    ends = Ends(TLS12)
    assert ends.client.read(ends.server.record(HANDSHAKE, bytes(4)) + ends.server.send(b"on")) == b"on"


@pytest.mark.parametrize("bit", [0, 8, 24, 40, 70, -1])
def test_a_changed_record_is_not_taken(ends, bit):
    wire = bytearray(ends.openssl.client_sends(b"0123456789"))
    before = ends.server[IN_SEQ]
    wire[bit // 8] ^= 1 << (bit % 8)
    assert ends.server.read(bytes(wire) + bytes(70_000)) == b""
    assert ends.server.records.event == BROKEN
    assert ends.server[IN_SEQ] == before


def test_a_record_again_is_not_taken(each):
    wire = each.openssl.client_sends(b"once")
    assert each.server.read(wire + wire) == b"once"
    assert (each.server.records.event, each.server.records.alert) == (BROKEN, alerts.BAD_RECORD_MAC)


def test_a_record_too_large(each):
    assert each.server.read(bytes((APPLICATION_DATA, 3, 3, 0x48, 0x01))) == b""
    assert (each.server.records.event, each.server.records.alert) == (BROKEN, alerts.RECORD_OVERFLOW)


def test_records_without_data_are_bounded(each):
    wire = b"".join(each.client.record(APPLICATION_DATA, b"") for _ in range(MAX_EMPTY_RECORDS))
    assert each.server.read(wire) == b""
    assert each.server.read(each.client.send(b"data")) == b"data"
    for _ in range(MAX_EMPTY_RECORDS):
        each.server.read(each.client.record(APPLICATION_DATA, b""))
    assert each.server.records.event == NOTHING
    each.server.read(each.client.record(APPLICATION_DATA, b""))
    assert each.server.records.event == BROKEN


def test_padding_is_removed(tls13):
    wire = tls13.client.record(0, b"data\x17" + bytes(100))  # its content type is the last zero
    assert tls13.server.read(wire) == b"data"
    tls13.server.read(tls13.client.record(0, bytes(100)))
    assert (tls13.server.records.event, tls13.server.records.alert) == (BROKEN, alerts.UNEXPECTED_MESSAGE)


# --- key updates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", TLS13_SUITES)
def test_key_updates(suite):
    """OpenSSL reads on through them, and through the answers."""
    ends = Ends(suite)
    for wanted in (0, 1, 1, 0):
        wire = ends.client.update_keys(wanted) + ends.client.send(b"behind it")
        pieces = [wire[n : n + 1] for n in range(len(wire))]
        assert b"".join(map(ends.server.read, pieces)) == b"behind it"
        assert ends.server[ANSWER_DUE] == wanted
        answer = ends.server.answer()
        assert bool(answer) == bool(wanted)
        assert ends.server[ANSWER_DUE] == 0
        sent = ends.server.send(b"back")
        assert ends.openssl.server_reads(wire) == b"behind it"
        # OpenSSL as the server answers with the same, at once or with what it sends next.
        theirs = ends.openssl.to_client.read()
        assert theirs + ends.openssl.server_sends(b"back") == answer + sent
        assert ends.openssl.client_reads(answer + sent) == b"back"


def test_many_key_updates_without_data(tls13):
    """As Java asks for the gateway's new keys with each record of a download that comes before the answer."""
    for _ in range(10):
        wire = b"".join(tls13.client.update_keys(1) for _ in range(MAX_EMPTY_RECORDS))
        assert tls13.server.read(wire) == b""
    assert tls13.server.records.event == NOTHING
    assert tls13.server.read(tls13.client.send(b"data")) == b"data"
    assert tls13.client.read(tls13.server.answer()) == b""  # one for all
    assert tls13.client.read(tls13.server.send(b"back")) == b"back"


def test_key_updates_at_once_are_bounded(tls13):
    """Data between them does not help: it is the time that they take, of all other connections, too."""
    for allowed in (MAX_KEY_UPDATES, MAX_KEY_UPDATES + 1):
        wire = b"".join(tls13.client.update_keys(0) + tls13.client.send(b"x") for _ in range(allowed))
        assert tls13.server.read(wire) == MAX_KEY_UPDATES * b"x"
        assert tls13.server.records.event == (NOTHING if allowed == MAX_KEY_UPDATES else BROKEN)
    assert tls13.server.records.alert == alerts.UNEXPECTED_MESSAGE


def test_a_key_update_cut_over_records(tls13):
    tls13.server.read(tls13.client.record(HANDSHAKE, bytes((KEY_UPDATE, 0))))
    tls13.server.read(tls13.client.record(HANDSHAKE, bytes((0, 1))))
    before = tls13.server[IN_SEQ]
    assert before > 0
    tls13.server.read(tls13.client.record(HANDSHAKE, b"\0"))
    assert tls13.server[IN_SEQ] == 0
    assert tls13.server.records.event == NOTHING


def test_data_within_a_message_is_refused(tls13):
    tls13.server.read(tls13.client.record(HANDSHAKE, bytes((KEY_UPDATE, 0))))
    assert tls13.server.read(tls13.client.send(b"data")) == b""
    assert tls13.server.records.event == BROKEN


def test_no_answer_behind_the_end(tls13):
    tls13.server.close()
    tls13.server.read(tls13.client.update_keys(1))
    assert tls13.server.answer() == b""


def test_a_key_is_not_used_for_ever(tls13):
    for end, cell in ((tls13.server, OUT_SEQ), (tls13.client, IN_SEQ)):
        end[cell] = RECORDS_BY_KEY - 1
    wire = tls13.server.send(b"a") + tls13.server.send(b"b") + tls13.server.send(b"c")
    assert len(records_of(wire)) == 4
    assert tls13.client.read(wire) == b"abc"
    assert tls13.server[OUT_SEQ] == 2


# --- sizes ------------------------------------------------------------------------------------------------------------


def sizes(end, n):
    overhead = len(end.send(b"x")) - 1
    end.now += SILENCE_NS
    return [len(record) - overhead for record in records_of(end.send(bytes(n)))]


def test_small_records_after_a_silence(each):
    small = -(-SMALL_BURST_BYTES // SMALL_BYTES)
    got = sizes(each.server, 60_000)
    left = 60_000 - small * SMALL_BYTES
    assert got == [SMALL_BYTES] * small + [16384] * (left // 16384) + [left % 16384]
    each.server.now += SILENCE_NS - 1
    assert len(records_of(each.server.send(bytes(32768)))) == 2
    each.server.now += SILENCE_NS
    assert len(records_of(each.server.send(bytes(32768)))) > 2


def test_what_does_not_fit_is_not_sealed(each):
    before = each.server[OUT_SEQ]
    with pytest.raises(ValueError, match="room"):
        each.server.send(bytes(len(each.server.wire)))
    assert each.server[OUT_SEQ] == before
    most = len(each.server.wire) - 33 * 29
    assert each.openssl.client_reads(each.server.send(bytes(most))) == bytes(most)
