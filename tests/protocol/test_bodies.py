"""Where bodies end: the same for any chunking of the bytes, and what a slow reader of the grammar says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.bodies import (
    LARGEST,
    MAX_LINE,
    MAX_TRAILER,
    REFUSED_TRAILERS,
    BadBody,
    Chunked,
    Dechunker,
    Framer,
    Length,
    UntilClose,
)

from . import chunked
from .streams import chunkings, one_by_one

Form = type[bytes] | type[bytearray] | type[memoryview]
GOOD = {
    "nothing": b"0\r\n\r\n",
    "one chunk": b"5\r\nhello\r\n0\r\n\r\n",
    "digits in both cases": b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "leading zeros": b"005\r\nhello\r\n000\r\n\r\n",
    "an extension": b"5;a=b;c\r\nhello\r\n0;last\r\n\r\n",
    "white space before an extension": b"5 \t;a\r\nhello\r\n0\r\n\r\n",
    "a quoted extension": b'5;a="\\"b;\xe9"\r\nhello\r\n0\r\n\r\n',
    "trailers": b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nx: \r\nY:\t\xe9 \r\n\r\n",
    "content that looks like framing": b"5\r\n0\r\n\r\n\r\n0\r\n\r\n",
}
MALFORMED = {
    "no size": b"\r\n\r\n",
    "a size that is none": b"x\r\n",
    "a sign": b"+5\r\nhello\r\n",
    "a negative size": b"-5\r\n",
    "a prefix": b"0x5\r\nhello\r\n",
    "white space before the size": b" 5\r\nhello\r\n",
    "white space within the size": b"5 0\r\nhello\r\n",
    "a separator in the size": b"1_0\r\n",
    "a size beyond 63 bits": b"8000000000000000\r\n",
    "a size that wraps around 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "bare LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "bare CR behind the size": b"5\rhello\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nhello\r\n0\r\n\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;\0\r\nhello\r\n0\r\n\r\n",
    "bare LF behind a chunk": b"5\r\nhello\n0\r\n\r\n",
    "bare CR behind a chunk": b"5\r\nhello\r0\r\n\r\n",
    "a chunk that is too long": b"5\r\nhello!\r\n0\r\n\r\n",
    "a chunk that is too short": b"5\r\nhell\r\n0\r\n\r\n",
    "an empty line between chunks": b"5\r\nhello\r\n\r\n0\r\n\r\n",
    "bare LF behind the last chunk": b"0\n\n",
    "bare LF at the end": b"0\r\n\n",
    "bare CR at the end": b"0\r\n\r\r\n",
    "a trailer without a colon": b"0\r\nX\r\n\r\n",
    "a trailer without a name": b"0\r\n: a\r\n\r\n",
    "space before a trailer's colon": b"0\r\nX : a\r\n\r\n",
    "a folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "bare LF in a trailer": b"0\r\nX: a\nY: b\r\n\r\n",
    "bare CR in a trailer": b"0\r\nX: a\rY: b\r\n\r\n",
    "NUL in a trailer": b"0\r\nX: \0\r\n\r\n",
    "a request in the place of trailers": b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a length in the trailers": b"0\r\nContent-Length: 5\r\n\r\n",
    "an address in the trailers": b"0\r\nX_Forwarded-FOR: 192.0.2.1\r\n\r\n",
    "an address in the trailers, in other characters": b"0\r\nX.Forwarded|FOR: 192.0.2.1\r\n\r\n",
}


def scanned(framer: Framer, chunks: list[bytes], form: Form = bytes) -> tuple[str, int, bytes]:
    """What becomes of these chunks, as :func:`chunked.read` says it. Content is that of a dechunker only."""
    content = bytearray()
    at = 0
    for chunk in chunks:
        piece = form(b"<<" + chunk + b">>")  # never the whole buffer: what is around it is not looked at
        try:
            upto = framer.scan(piece, 2, 2 + len(chunk))
        except BadBody:
            with pytest.raises(BadBody):
                framer.scan(b"0\r\n\r\n", 0, 5)
            assert not framer.complete
            return "malformed", 0, b""
        assert 2 <= upto <= 2 + len(chunk)
        if isinstance(framer, Dechunker):
            for start, end in framer.slices:
                assert 2 <= start < end <= upto
                content += piece[start:end]
        at += upto - 2
        if framer.complete:
            assert framer.scan(b"more", 0, 4) == 0
            return "whole", at, bytes(content)
        assert upto == 2 + len(chunk)
    return "partial", at, b""


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n"])
@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_good(data: bytes, behind: bytes, form: Form) -> None:
    expected = chunked.read(data, False, REFUSED_TRAILERS)
    assert expected[:2] == ("whole", len(data))
    for chunks in ([data + behind], one_by_one(data + behind)):
        dechunker = Dechunker()
        assert scanned(dechunker, chunks, form) == expected
        assert (dechunker.received, dechunker.remaining) == (len(expected[2]), 0)
        assert scanned(Chunked(), chunks, form)[:2] == expected[:2]
    for at in range(1, len(data)):
        assert scanned(Dechunker(), [data[:at], data[at:] + behind], form) == expected
    assert scanned(Chunked(), [data[:-1]])[0] == "partial"


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed(data: bytes, padded: bool) -> None:
    assert chunked.read(data, padded, REFUSED_TRAILERS)[0] == "malformed"
    with pytest.raises(BadBody, match=r"\A(a|too long a) [a-zA-Z0-9 ]+\Z"):
        Chunked(padded=padded).scan(data, 0, len(data))
    for chunks in ([data], one_by_one(data), *([data[:at], data[at:]] for at in range(1, len(data)))):
        for kind in (Chunked, Dechunker):
            assert scanned(kind(padded=padded), chunks)[0] == "malformed"


@pytest.mark.parametrize("padding", [b" ", b"\t", b"      "])
def test_sizes_of_a_fixed_width(padding: bytes) -> None:
    data = b"5%b\r\nhello\r\n0%b\r\n\r\n" % (padding, padding)
    for chunks in ([data], one_by_one(data)):
        assert scanned(Dechunker(padded=True), chunks) == ("whole", len(data), b"hello")
        assert scanned(Chunked(), chunks)[0] == "malformed"


@pytest.mark.parametrize("size", [1, 2**31, 2**32, 2**40 - 1, LARGEST])
def test_large_chunks(size: int) -> None:
    framer = Chunked()
    head = b"%x\r\n" % size
    assert framer.scan(head + b"a", 0, len(head) + 1) == len(head) + 1
    assert (framer.received, framer.remaining, framer.complete) == (1, size - 1, False)


@pytest.mark.parametrize(
    "line", [b"5;" + b"a" * (MAX_LINE - 2), b"0" * (MAX_LINE - 1) + b"5", b"5" + b" " * (MAX_LINE - 2) + b";"]
)
def test_a_line_before_a_chunk_is_bounded(line: bytes) -> None:
    """The line's end counts for one byte."""
    data = line.replace(line[2:3], b"", 1) + b"\r\nhello\r\n"
    assert scanned(Chunked(), [data * 3]) == ("partial", 3 * len(data), b"")
    assert scanned(Chunked(), [line + b"\r\nhello\r\n"])[0] == "malformed"
    assert scanned(Chunked(), one_by_one(line + b";"))[0] == "malformed"


def test_another_bound() -> None:
    assert scanned(Chunked(max_line=8), [b"5;12345\r\nhello\r\n"])[0] == "partial"
    assert scanned(Chunked(max_line=8), [b"5;123456\r\nhello\r\n"])[0] == "malformed"


def test_trailers_are_bounded() -> None:
    field = b"X: " + b"a" * 95 + b"\r\n"
    most = b"0\r\n" + field * (MAX_TRAILER // 100)
    most += b"Y: " + b"b" * (MAX_TRAILER % 100 - 5) + b"\r\n"
    assert scanned(Chunked(), [most + b"\r\n"])[:2] == ("whole", len(most) + 2)
    assert scanned(Chunked(), [most + field])[0] == "malformed"
    assert scanned(Chunked(), one_by_one(b"0\r\n" + field * 200))[0] == "malformed"
    assert scanned(Chunked(max_trailer=6), [b"0\r\nX: a\r\n\r\n"])[0] == "whole"
    assert scanned(Chunked(max_trailer=6), [b"0\r\nX: ab\r\n\r\n"])[0] == "malformed"


@pytest.mark.parametrize("length", [0, 1, 5, 2**31, LARGEST])
def test_length(length: int) -> None:
    framer = Length(length)
    data = b"hello, more"
    assert framer.scan(data, 0, len(data)) == min(length, len(data))
    assert framer.complete == (length <= len(data))
    assert (framer.received, framer.remaining) == (min(length, len(data)), max(length - len(data), 0))
    assert not framer.until_close


@given(st.binary(max_size=40), st.data())
def test_length_in_pieces(data: bytes, draw: st.DataObject) -> None:
    length = draw.draw(st.integers(1, 50))
    whole = ("whole", length, b"") if length <= len(data) else ("partial", len(data), b"")
    assert scanned(Length(length), draw.draw(chunkings(data))) == whole


def test_until_close() -> None:
    framer = UntilClose()
    assert [framer.scan(b"abc", 0, 3), framer.scan(b"abc", 1, 2)] == [3, 2]
    assert (framer.complete, framer.received, framer.until_close) == (False, 4, True)


# --- any bytes, any chunking -----------------------------------------------------------------------------------------

SIZES = st.integers(0, 20) | st.sampled_from([255, 256, 300])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body that is right."""
    made = bytearray()
    for size in draw(st.lists(SIZES.filter(bool), max_size=5)):
        digits = draw(st.sampled_from(["%x", "%X", "%04x"])) % size
        made += digits.encode() + draw(st.sampled_from([b"", b"", b";a", b" ;a=b"])) + b"\r\n"
        made += draw(st.binary(min_size=size, max_size=size)) + b"\r\n"
    made += draw(st.sampled_from([b"0", b"0", b"00000", b"0;a"])) + b"\r\n"
    made += b"".join(draw(st.lists(st.sampled_from([b"X: a\r\n", b"y:\r\n", b"Expires: 0\r\n"]), max_size=2)))
    return bytes(made + b"\r\n")


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A body with some bytes taken out and others put in their place."""
    data = draw(bodies())
    at = draw(st.integers(0, len(data)))
    piece = st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"\t", b";", b":", b"0", b"f", b"g", b"\0", b"\x7f", b"\xff"])
    return data[:at] + draw(piece | st.just(b"")) + data[at + draw(st.integers(0, 3)) :]


@given(st.lists(bodies(), min_size=1, max_size=4), st.booleans(), st.data())
def test_messages_one_behind_another(messages: list[bytes], padded: bool, draw: st.DataObject) -> None:
    """Each framer takes its own message, wherever TCP cuts the stream."""
    found = []
    framer = Dechunker(padded=padded)
    content = b""
    taken = 0
    for chunk in draw.draw(chunkings(b"".join(messages))):
        at = 0
        while at < len(chunk):
            upto = framer.scan(chunk, at, len(chunk))
            content += b"".join(chunk[start:end] for start, end in framer.slices)
            taken += upto - at
            at = upto
            if framer.complete:
                found.append(("whole", taken, content))
                framer, content, taken = Dechunker(padded=padded), b"", 0
            else:
                assert at == len(chunk)
    assert found == [chunked.read(message, padded, REFUSED_TRAILERS) for message in messages]
