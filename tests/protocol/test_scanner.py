"""The frame scanner against streams whose frames are known. Runs on the build that ``GATEWAY_RELAY`` asks for."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.build import relay_build
from gateway.protocol import scanner as scanner_module
from gateway.protocol.scanner import FrameScanner, scan
from gateway.protocol.scanner_state import (
    EXTENDED,
    MASKING,
    MESSAGE,
    OPCODES,
    PASS_ONE,
    PING_AT,
    PING_ID,
    PLAIN,
    PONG_AT,
    PONG_ID,
    REMAINING,
    SCANNER_CELLS,
    STOP,
)
from tests.support import frames

from .streams import (
    BIG,
    BIG_SIZES,
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    SIZES,
    TEXT,
    Stream,
    chunkings,
    frame,
    header,
    one_by_one,
    scanned,
    seen,
    streams,
)


def test_the_build_that_was_asked_for():
    assert scanner_module.__file__.endswith(".py") == (relay_build() == "pure")


@given(st.data())
def test_any_chunking(data):
    stream = data.draw(streams())
    scanner = scanned(data.draw(chunkings(stream.data)), stream.masked)
    assert seen(scanner) == {
        "frames": stream.frames(),
        "count": len(stream.opcodes),
        "at_boundary": True,
        "broken": False,
        "closed": stream.close_code is not None,
        "close_code": stream.close_code or None,
        "data_at": 5 if {TEXT, BINARY} & set(stream.opcodes) else 0,
    }


@given(streams(sizes=st.sampled_from([0, 1, 125, 126, 200])))
def test_one_byte_at_a_time(stream):
    scanner = FrameScanner(masked=stream.masked)
    for at, byte in enumerate(one_by_one(stream.data)):
        assert scanner.at_boundary == (at in stream.boundaries)
        assert scanner.frames == stream.frames(upto=at)
        scanner.feed(byte)
    assert scanner.at_boundary
    assert scanner.frames == stream.frames()


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_big_frames(data):
    stream = data.draw(streams(sizes=BIG_SIZES | SIZES))
    scanner = scanned(data.draw(chunkings(stream.data, most=40)), stream.masked)
    assert (scanner.frames, scanner.at_boundary, scanner.broken) == (stream.frames(), True, False)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [65536, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1])
def test_a_size_of_64_bits(size, masked):
    head = header(BINARY, size, masked)
    data = head + bytes(20)
    for chunks in ([data], one_by_one(data), *([data[:at], data[at:]] for at in range(len(head) + 3))):
        scanner = scanned(chunks, masked)
        assert (scanner.frames, scanner.at_boundary, scanner.broken) == ({BINARY: 1}, False, False)
        assert scanner.export_state()[REMAINING] == size - 20
        scanner.feed(BIG[:40000])
        assert not scanner.at_boundary
        assert scanner.export_state()[REMAINING] == size - 40020


def test_the_end_of_a_frame_of_many_gigabytes():
    state = scanned([header(BINARY, 1 << 40, True)], True).export_state()
    state[REMAINING] = 3
    scanner = FrameScanner(masked=True, state=state)
    assert scanner.next_boundary(b"abc" + frame(PING, b"", True)) == 3


@given(st.data())
def test_state_exported_at_any_cut(data):
    stream = data.draw(streams())
    cut = data.draw(st.integers(0, len(stream.data)))
    first = scanned([stream.data[:cut]], stream.masked)
    second = FrameScanner(masked=stream.masked, state=first.export_state())
    assert seen(second) == seen(first)
    second.feed(stream.data[cut:], 5)
    assert seen(second) == seen(scanned([stream.data], stream.masked))


@pytest.mark.parametrize("length", [0, 16, 35, 37])
def test_a_state_of_another_length(length):
    with pytest.raises(ValueError, match=f"36 integers, not {length}"):
        FrameScanner(masked=True, state=[0] * length)


@given(st.data())
def test_next_boundary(data):
    stream = data.draw(streams())
    cut = data.draw(st.integers(0, len(stream.data)))
    start = data.draw(st.integers(0, cut))
    scanner = scanned([stream.data[:start], stream.data[start:cut]], stream.masked)
    boundary = min(at for at in stream.boundaries if at >= cut)
    assert scanner.next_boundary(bytes(stream.data), cut) == boundary
    assert scanner.at_boundary
    assert scanner.frames == stream.frames(upto=boundary)
    scanner.feed(stream.data[boundary:])
    assert scanner.frames == stream.frames()


@given(st.data())
def test_next_boundary_in_pieces(data):
    stream = data.draw(streams(closes=st.none()))
    stream.add(BINARY, BIG[: data.draw(SIZES)])
    stop = stream.boundaries[-1]
    scanner = FrameScanner(masked=stream.masked)
    scanner.feed(stream.data[: stream.boundaries[-2] + 1])
    at = stream.boundaries[-2] + 1
    for piece in data.draw(chunkings(stream.data[at:] + b"\xff\xff\xff")):
        position = scanner.next_boundary(piece)
        assert position == min(len(piece), max(stop - at, 0))
        if position < len(piece):
            break
        at += position
    assert scanner.at_boundary
    assert scanner.frames == stream.frames()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_kinds_of_bytes(kind):
    data = frame(TEXT, b"hello", True)
    assert scanned([kind(data)], True).frames == {TEXT: 1}
    assert FrameScanner(masked=True).next_boundary(kind(data), 0) == 0


def test_time_of_data():
    scanner = FrameScanner(masked=False)
    scanner.feed(frame(PING, b"x", False), 10)
    assert scanner.data_at == 0
    scanner.feed(header(TEXT, 100, False), 20)
    scanner.feed(b"a", 30)
    assert scanner.data_at == 30
    scanner.feed(bytes(99), 40)
    scanner.feed(frame(PONG, b"", False), 50)
    scanner.feed(frame(CLOSE, b"", False), 60)
    assert scanner.data_at == 40


# --- what breaks RFC 6455 ---------------------------------------------------------------------------------------------

VIOLATIONS = {
    **{
        f"reserved opcode {op}": lambda masked, op=op: frame(op, b"x", masked)
        for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "fragmented Ping": lambda masked: frame(PING, b"x", masked, fin=False),
    "fragmented Close": lambda masked: frame(CLOSE, b"\x03\xe8", masked, fin=False),
    "Ping of 126 bytes": lambda masked: header(PING, 126, masked) + bytes(126),
    "Pong of 64 KiB": lambda masked: header(PONG, 65536, masked) + bytes(100),
    "Close of one byte": lambda masked: frame(CLOSE, b"x", masked),
    "frame of the other side": lambda masked: frame(TEXT, b"x", not masked),
    "Ping of the other side": lambda masked: frame(PING, b"", not masked),
    "continuation of nothing": lambda masked: frame(CONTINUATION, b"x", masked),
    "text in a fragmented message": lambda masked: frame(TEXT, b"x", masked, fin=False) + frame(TEXT, b"x", masked),
    "binary in a fragmented message": lambda masked: (
        frame(TEXT, b"x", masked, fin=False) + frame(PING, b"", masked) + frame(BINARY, b"x", masked)
    ),
    "continuation of a finished message": lambda masked: (
        frame(TEXT, b"x", masked, fin=False) + frame(CONTINUATION, b"x", masked) + frame(CONTINUATION, b"", masked)
    ),
    "125 in 16 bits": lambda masked: header(TEXT, 125, masked, form=16) + bytes(125),
    "0 in 16 bits": lambda masked: header(PING, 0, masked, form=16),
    "65535 in 64 bits": lambda masked: header(TEXT, 65535, masked, form=64) + bytes(100),
    "0 in 64 bits": lambda masked: header(TEXT, 0, masked, form=64),
    "64 bits with the top one set": lambda masked: header(TEXT, 1 << 63, masked),
    "64 bits, all set": lambda masked: header(TEXT, (1 << 64) - 1, masked),
}


@pytest.mark.parametrize("masked", [True, False], ids=["client", "backend"])
@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
def test_violations(violation, masked):
    before = frame(BINARY, b"hello", masked) + frame(PONG, b"", masked)
    data = before + violation(masked)
    whole = scanned([data], masked)
    assert whole.broken
    assert not whole.at_boundary
    assert not whole.closed
    assert whole.frames[BINARY] == whole.frames[PONG] == 1
    for at in range(len(before), len(data) + 1):
        assert seen(scanned([data[:at], data[at:]], masked)) == seen(whole)
    assert seen(scanned(one_by_one(data), masked)) == seen(whole)
    # However much of the buffer is behind it; and it is not looked at.
    behind = frame(TEXT, b"more" * 10, masked) + frame(CLOSE, b"", masked)
    assert seen(scanned([data + behind], masked)) == seen(scanned([data, behind], masked)) == seen(whole)
    # Nor is it when the scan stops at each boundary.
    scanner = scanned([before], masked)
    rest = data[len(before) :] + behind
    at = 0
    while at < len(rest):
        scanner.feed(rest[at : at + 1], 5)
        at = scanner.next_boundary(rest, at + 1, 5)
    assert seen(scanner) == seen(whole)


def test_a_broken_stream_stays_broken_elsewhere():
    broken = scanned([frame(3, b"", True)], True)
    assert FrameScanner(masked=True, state=broken.export_state()).broken
    assert broken.next_boundary(frame(TEXT, b"x", True)) == len(frame(TEXT, b"x", True))


@given(st.data())
@settings(max_examples=50)
def test_a_violation_after_any_stream(data):
    stream = data.draw(streams(closes=st.none()))
    broken = bytes(stream.data) + frame(0xB, BIG[: data.draw(st.integers(0, 125))], stream.masked)
    scanner = scanned(data.draw(chunkings(broken)), stream.masked)
    assert seen(scanner) == seen(scanned([broken], stream.masked))
    assert (scanner.broken, scanner.frames) == (True, stream.frames())
    assert seen(scanner)["count"] == len(stream.opcodes)


# --- Close ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False], ids=["client", "backend"])
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", 1005),
        (b"\x03\xe8", 1000),
        (b"\x03\xf4a reason", 1012),
        (b"\x0f\xa0" + b"x" * 123, 4000),
        (b"\x00\x00", None),
        (b"\xff\xff", 65535),
    ],
)
def test_close_codes(payload, code, masked):
    stream = Stream(masked)
    stream.add(TEXT, b"bye")
    stream.add(CLOSE, payload)
    end = len(stream.data)
    behind = frame(TEXT, b"after", masked)
    for at in range(end + 1):
        scanner = scanned([stream.data[:at]], masked)
        assert scanner.closed == (at == end)
        if at < end:
            assert scanner.close_code is None
        scanner.feed(stream.data[at:] + behind)
        assert (scanner.closed, scanner.close_code, scanner.broken) == (True, code, False)
        assert scanner.frames == {TEXT: 1, CLOSE: 1}
        assert scanner.at_boundary
    assert seen(scanned(one_by_one(stream.data + behind), masked)) == seen(scanned([stream.data], masked))


def test_nothing_behind_a_close_is_looked_at():
    scanner = scanned([frame(CLOSE, b"\x03\xe8", True)], True)
    assert scanner.next_boundary(b"\xff" * 100, 7) == 7
    scanner.feed(b"\xff" * 100)
    assert not scanner.broken


def test_a_mask_is_that_of_its_frame():
    masked = bytes((0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xE9 ^ 2))
    assert KEY != b"\1\2\3\4"
    assert scanned([frame(PING, b"x", True) + masked], True).close_code == 1001


# --- Pings and Pongs --------------------------------------------------------------------------------------------------

PAYLOADS = st.binary(max_size=125)
MASKS = st.binary(min_size=4, max_size=4)


@given(st.data())
def test_a_ping_and_the_pong_that_answers_it_have_one_id(data):
    """However either is masked and cut, and whatever goes by before."""
    payload = data.draw(PAYLOADS)
    noise = data.draw(streams(closes=st.none()))
    ids = []
    for opcode, cell in ((PING, PING_ID), (PONG, PONG_ID)):
        control = frames.frame(opcode, payload, data.draw(MASKS) if noise.masked else None)
        whole = bytes(noise.data) + control
        ids.append(scanned(data.draw(chunkings(whole)), noise.masked).export_state()[cell])
        assert scanned(one_by_one(whole), noise.masked).export_state()[cell] == ids[-1]
        # The other side's masking makes no difference either.
        other = frames.frame(opcode, payload, None if noise.masked else data.draw(MASKS))
        assert scanned([other], not noise.masked).export_state()[cell] == ids[-1]
    assert ids[0] == ids[1]


@given(st.lists(PAYLOADS | st.integers(0, 125).map(bytes), min_size=2, max_size=20, unique=True), st.booleans())
def test_other_payloads_have_other_ids(payloads, masked):
    """Those that differ only in how many zeros there are, too."""
    ids = {scanned([frame(PING, payload, masked)], masked).export_state()[PING_ID] for payload in payloads}
    assert len(ids) == len(payloads)


@pytest.mark.parametrize("masked", [True, False], ids=["client", "backend"])
def test_a_ping_counts_from_its_last_byte(masked):
    data = frame(PING, b"payload", masked)
    scanner = FrameScanner(masked=masked)
    for now, byte in enumerate(one_by_one(data), 100):
        assert scanner.export_state()[PING_AT] == scanner.export_state()[PING_ID] == 0
        scanner.feed(byte, now)
    state = scanner.export_state()
    assert state[PING_AT] == 100 + len(data) - 1
    scanner.feed(frame(PONG, b"payload", masked) + frame(TEXT, b"text", masked), 200)
    after = scanner.export_state()
    assert (after[PING_AT], after[PING_ID]) == (state[PING_AT], state[PING_ID])
    assert (after[PONG_AT], after[PONG_ID]) == (200, state[PING_ID])


def test_the_latest_ping_is_the_one_that_counts():
    scanner = scanned([frame(PING, b"1", True) + frame(PING, b"2", True) + frame(PING, b"3", True)[:-1]], True)
    assert scanner.export_state()[PING_ID] == scanned([frame(PING, b"2", True)], True).export_state()[PING_ID]
    assert scanned([frame(PING, b"", True)], True).export_state()[PING_AT] == 5


@pytest.mark.parametrize("masked", [True, False], ids=["client", "backend"])
def test_what_looks_like_a_pong_inside_a_message_is_none(masked):
    scanner = scanned([frame(TEXT, b"\x8a\x00", masked) + frame(CLOSE, b"\x03\xe8", masked)], masked)
    state = scanner.export_state()
    assert state[PING_AT] == state[PONG_AT] == 0


# --- fragmented messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False], ids=["client", "backend"])
@pytest.mark.parametrize("rsv", range(8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_what_kind_of_message_is_unfinished(opcode, rsv, masked):
    kind = EXTENDED if rsv else PLAIN
    scanner = FrameScanner(masked=masked)
    for data, unfinished in [
        (frame(opcode, b"whole", masked, rsv=rsv), 0),
        (frame(opcode, b"first", masked, fin=False, rsv=rsv), kind),
        (frame(PING, b"", masked), kind),
        (frame(CONTINUATION, b"second", masked, fin=False), kind),
        (frame(CONTINUATION, b"third, whose bits mean nothing", masked, fin=False, rsv=7 - rsv), kind),
        (frame(CONTINUATION, b"last", masked), 0),
        (frame(opcode, b"first", masked, fin=False), PLAIN),
        (frame(CONTINUATION, b"last", masked), 0),
    ]:
        for byte in one_by_one(data):
            scanner.feed(byte)
        assert scanner.export_state()[MESSAGE] == unfinished
        assert not scanner.broken
    assert scanner.at_boundary


# --- one frame at a time ----------------------------------------------------------------------------------------------


@given(st.data())
def test_passing_one_frame_at_a_time(data):
    """Each scan from a boundary goes to the next one, over a header or payload that was cut, and no further."""
    stream = data.draw(streams())
    cells = array("q", [0] * (SCANNER_CELLS + OPCODES))
    cells[MASKING] = 1 if stream.masked else 0
    at = 0
    boundaries = [0]
    for end in [*sorted(data.draw(st.lists(st.integers(0, len(stream.data)), max_size=5))), len(stream.data)]:
        chunk = memoryview(stream.data)[:end]
        while at < end:
            how = PASS_ONE if at == boundaries[-1] else STOP
            at = scan(cells, 0, SCANNER_CELLS, chunk, at, end, 5, how)
            if FrameScanner(masked=stream.masked, state=cells).at_boundary:
                boundaries.append(at)
    assert boundaries == stream.boundaries
    assert seen(FrameScanner(masked=stream.masked, state=cells)) == seen(scanned([stream.data], stream.masked))


@pytest.mark.parametrize("masked", [True, False], ids=["client", "backend"])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65536])
def test_passing_one_stops_behind_it_whatever_follows(size, masked):
    data = frame(BINARY, BIG[:size], masked)
    cells = array("q", FrameScanner(masked=masked).export_state())
    behind = frame(PONG, b"12345678", masked) * 3 + b"\xff" * 20
    assert scan(cells, 0, SCANNER_CELLS, data + behind, 0, len(data + behind), 5, PASS_ONE) == len(data)
    assert scan(cells, 0, SCANNER_CELLS, data + behind, len(data), len(data + behind), 5, STOP) == len(data)
    assert FrameScanner(masked=masked, state=cells).frames == {BINARY: 1}
