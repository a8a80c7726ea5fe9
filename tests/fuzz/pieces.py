"""Bytes as an attacker would send them: what heads are made of, put together wrongly."""

from hypothesis import settings
from hypothesis import strategies as st

from ..support.deadline import SOAK

MANY = settings(max_examples=10_000 if SOAK else 150, deadline=None)

METHODS = [
    b"GET",
    b"POST",
    b"CONNECT",
    b"OPTIONS",
    b"PRI",
    b"M-SEARCH",
    b"SOURCE",
    b"get",
    b"G\0T",
    b"M" * 65,
    b"GET ",
    b"",
]
TARGETS = [
    *(b"/", b"/ws", b"/ws?x=1", b"*", b"a:443", b"http://a/ws", b"http://", b"ws://a/", b"//a/b", b"/%zz", b"/%2e%2e/"),
    *(b"/../%77s", b"/ws#x", b"/\xe9", b"/a b", b"", b"http://[::1]:8/%", b"http://u@h:1?q", b"/" + b"%41" * 50),
]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"RTSP/1.0", b"ICE/1.1", b"HTTP/1.1 ", b""]
NAMES = [
    *(b"Host", b"Host", b"host", b"Connection", b"Upgrade", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Via"),
    *(b"Sec-WebSocket-Protocol", b"Content-Length", b"Transfer-Encoding", b"X-Forwarded-For", b"X-Request-Id", b"X"),
    *(b"Host ", b" X", b"", b"X\0", b"X(", b"\xe9", b"Expect", b"Sec-WebSocket-Accept"),
]
VALUES = [
    *(b"a", b"", b"a, b", b"Upgrade", b"keep-alive, Upgrade", b"websocket", b"h2c, websocket", b"13", b"8", b"0", b"5"),
    *(
        b"Uc9l9TMkWGbHFD2qnFHltg==",
        b"1qVdfYHU9hPOl4JYYNXF623Gzn0=",
        b"chunked",
        b"gzip, chunked",
        b"99999999999999999999",
    ),
    *(b"a\0b", b"a\rb", b"a\nb", b"\xff\xfe", b"[::1]:80", b"a/b", b"10.0.0.1, 192.0.2.1", b"fe80::1%a", b"a" * 600),
]
ENDS = [b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"", b"\r\n "]


def lines(start):
    """A head with this kind of first line, most often nearly right."""
    field = st.tuples(st.sampled_from(NAMES), st.sampled_from([b": ", b":", b" : ", b":\t"]), st.sampled_from(VALUES))
    line = st.tuples(field.map(b"".join), st.sampled_from(ENDS)).map(b"".join)
    before = st.sampled_from([b"", b"", b"", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0"])
    behind = st.binary(max_size=30) | st.just(b"GET / HTTP/1.1\r\n\r\n")
    parts = st.tuples(
        before, start, st.sampled_from(ENDS), st.lists(line, max_size=8).map(b"".join), st.just(b"\r\n"), behind
    )
    return parts.map(b"".join)


REQUESTS = st.binary(max_size=200) | lines(
    st.tuples(st.sampled_from(METHODS), st.sampled_from(TARGETS), st.sampled_from(VERSIONS)).map(b" ".join)
)
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: Uc9l9TMkWGbHFD2qnFHltg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# A good handshake with something taken out of it and something else put there.
REQUESTS |= st.tuples(
    st.integers(0, len(HANDSHAKE)),
    st.integers(0, 12) | st.just(0),
    st.sampled_from([b"", b"\r\n", b" ", b"\t", b",", b"\0", b"X: 1\r\n", *METHODS, *TARGETS, *NAMES, *VALUES, *ENDS]),
).map(lambda change: HANDSHAKE[: change[0]] + change[2] + HANDSHAKE[change[0] + change[1] :])
ANSWERS = st.binary(max_size=200) | st.lists(
    lines(
        st.tuples(
            st.sampled_from(
                [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"RTSP/1.0", b"http/1.1", b"HTTP/1.12"]
            ),
            st.sampled_from(
                [b"100", b"103", b"101", b"200", b"403", b"204", b"000", b"099", b"999", b"1000", b"20", b"x"]
            ),
            st.sampled_from([b"OK", b"", b"a\0b", b"\xff", b"a b"]),
        ).map(b" ".join)
    ),
    max_size=3,
).map(b"".join)
