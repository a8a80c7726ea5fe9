"""Hostile PROXY headers: a header or the documented error, never another exception, the same however TCP cuts them."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.trust import Peer
from gateway.protocol.proxy import Header, header_bytes

from ..edge.requests import PROXY as PROXY_PEER
from ..edge.requests import TRUST
from ..protocol.proxy import LOCAL, PROXY, SIGNATURE, block, v1, v2, vector, with_checksum
from ..protocol.streams import chunkings
from .pieces import MANY
from .proxy import check, outcome, play

LINE_PIECES = st.sampled_from(
    [
        *(
            b"PROXY",
            b" ",
            b"  ",
            b"TCP4",
            b"TCP6",
            b"UNKNOWN",
            b"203.0.113.7",
            b"2001:db8::1",
            b"::",
            b"::ffff:1.2.3.4",
        ),
        *(b"443", b"0", b"65535", b"65536", b"-1", b"01", b"256.1.1.1", b"\t", b"\0", b"\xff", b"\r", b"\n", b"\r\n"),
        *(b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b" " * 90, b"%", b"GET / HTTP/1.1\r\n\r\n"),
    ]
)
VECTORS = st.lists(
    st.tuples(st.integers(0, 255) | st.just(3), st.binary(max_size=8) | st.binary(min_size=4, max_size=4)).map(
        lambda each: vector(*each)
    )
    | st.binary(max_size=4),
    max_size=4,
).map(b"".join)
BLOCKS = st.builds(
    block,
    st.sampled_from([LOCAL, PROXY, PROXY, 0x22, 0x11]) | st.integers(0, 255),
    st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x31, 0x41]) | st.integers(0, 255),
    st.sampled_from([0, 12, 36, 216]).map(bytes) | st.binary(max_size=40),
    VECTORS,
    st.none() | st.none() | st.integers(0, 65535) | st.integers(0, 300),
)
GOOD = st.sampled_from(
    [
        v1("203.0.113.7", "192.0.2.1"),
        v1("2001:db8::7", "2001:db8::1"),
        b"PROXY UNKNOWN ffff:f::f ::1 1 2\r\n",
        v2("203.0.113.7", "192.0.2.1"),
        with_checksum(v2("2001:db8::7", "2001:db8::1", vectors=vector(4, b"abc"))),
        block(LOCAL, 0),
    ]
)
# A good header with something taken out of it and something else put there.
BROKEN = st.tuples(GOOD, st.integers(0, 60), st.integers(0, 4), st.binary(max_size=4) | LINE_PIECES).map(
    lambda change: change[0][: change[1]] + change[3] + change[0][change[1] + change[2] :]
)
HEADERS = (
    st.binary(max_size=120)
    | st.lists(LINE_PIECES, max_size=10).map(b"".join)
    | st.binary(max_size=60).map(SIGNATURE.__add__)
    | BLOCKS
    | BROKEN
    | st.tuples(GOOD, st.binary(max_size=20)).map(b"".join)
)


@given(st.data())
@MANY
def test_any_header(data):
    sent = data.draw(HEADERS)
    made = outcome(sent)
    assert outcome(*data.draw(chunkings(sent))) == made
    check(sent, made)


@given(st.binary(max_size=200))
@MANY
def test_any_bytes(data):
    play(data)


@given(HEADERS, st.sampled_from(["v1", "v2"]))
@MANY
def test_any_client(sent, version):
    """What a header says can be trusted or not, logged, moved to another worker and sent on."""
    header = outcome(sent)
    if not isinstance(header, Header):
        return
    peer = TRUST.behind(PROXY_PEER, header)
    assert str(peer).isprintable()
    assert TRUST.unpacked(peer.packed()) == peer
    assert peer.trusted == (header.is_local or (header.source is not None and TRUST.trusts(header.source[0])))
    assert isinstance(peer, Peer)
    written = outcome(header_bytes(version, header.source, header.destination))
    assert (written.source, written.destination) == (header.source, header.destination)
