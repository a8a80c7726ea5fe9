"""The client's end of a tunnel, fed with bytes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.probe.endpoint import Endpoint, Refused
from gateway.probe.target import parse_target
from gateway.protocol.frames import close_frame, control_frame
from gateway.protocol.websocket import accept_of
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame

TARGET = parse_target("ws://example.com/")


def endpoint() -> Endpoint:
    return Endpoint(TARGET, random.Random(1).randbytes)


def key_of(client: Endpoint) -> bytes:
    (line,) = [line for line in client.request().split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key: ")]
    return line.partition(b": ")[2]


def accepting(client: Endpoint, *fields: bytes, **changed: bytes) -> bytes:
    head = {"Upgrade": b"websocket", "Connection": b"Upgrade", "Sec-WebSocket-Accept": accept_of(key_of(client))}
    head |= changed
    lines = [b"HTTP/1.1 101 Switching Protocols", *(b"%b: %b" % (k.encode(), v) for k, v in head.items()), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def opened() -> Endpoint:
    client = endpoint()
    assert client.feed(accepting(client)) == b""
    assert client.head is not None
    return client


def feed(client: Endpoint, data: bytes, size: int) -> bytes:
    """Feed bytes in chunks; what is to be sent for them."""
    return b"".join(client.feed(data[at : at + size]) for at in range(0, len(data), size))


def unmasked(data: bytes) -> list[tuple[int, bytes]]:
    """Masked control frames: opcode and payload of each."""
    found = []
    while data:
        assert data[0] & 0x80
        assert data[1] & 0x80
        size = data[1] & 0x7F
        mask, payload = data[2:6], data[6 : 6 + size]
        found.append((data[0] & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))))
        data = data[6 + size :]
    return found


# --- handshake ----------------------------------------------------------------------------------------------------


def test_bytes_behind_the_101_are_frames():
    client = endpoint()
    answer = client.feed(accepting(client, b"Server: x") + frame(TEXT, b"hello") + frame(PING, b"there?"))
    assert unmasked(answer) == [(PONG, b"there?")]
    assert client.head.first[b"server"] == b"x"


@given(st.data())
def test_any_chunking_of_the_handshake(data):
    client = endpoint()
    stream = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + accepting(client)
    stream += frame(PING, b"1")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    answer = b"".join(
        client.feed(stream[start:end]) for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
    )
    assert unmasked(answer) == [(PONG, b"1")]


def test_keys_differ():
    assert key_of(Endpoint(TARGET)) != key_of(Endpoint(TARGET))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"Sec-WebSocket-Accept": b"AAAA"}, "Accept is wrong"),
        ({"Upgrade": b"h2c"}, "another protocol"),
        ({"Connection": b"close"}, "no Connection: Upgrade"),
    ],
)
def test_a_101_that_is_none(changed, says):
    client = endpoint()
    with pytest.raises(Refused, match=says) as refused:
        client.feed(accepting(client, **changed))
    assert refused.value.status == 101


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, "404 Not Found"),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "200"),
        (
            b"HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/plain; x=y\r\nContent-Length: 9\r\n\r\nno header",
            426,
            "426 Upgrade Required: no header",
        ),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n", 403, "403 Forbidden"),
        (b"HTTP/1.1 500 E\r\nContent-Type: text/plain\r\nContent-Length: 99999\r\n\r\n", 500, "500 E"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None, "not an answer in HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nbad\x00header\r\n\r\n", None, "malformed: a malformed field name"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 80_000, None, "over 65536 bytes"),
    ],
)
def test_refusals(answer, status, says):
    for size in (1, 7, 100_000):
        with pytest.raises(Refused) as refused:
            feed(endpoint(), answer, size)
        assert refused.value.status == status
        assert says in str(refused.value)


def test_an_answer_that_ends_early():
    client = endpoint()
    assert str(client.refusal("gone")) == "gone"
    client.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert str(client.refusal("gone")) == "gone"
    client.feed(b"HTTP/1.1 503 No\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nbus")
    refused = client.refusal("gone")
    assert (refused.status, str(refused)) == (503, "503 No: bus")


# --- frames -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.lists(st.integers(0, 70_000), max_size=4), st.data())
def test_any_chunking_of_frames(seed, sizes, data):
    """Pings are answered in order, Pongs noted, the rest is skipped; then a Close ends it."""
    rng = random.Random(seed)
    stream = b""
    pings, pongs = [], []
    for size in sizes:
        payload = rng.randbytes(rng.randint(0, 125))
        stream += frame(TEXT, rng.randbytes(size), fin=False) + frame(PING, payload)
        stream += frame(PONG, payload[::-1]) + frame(CONTINUATION, b"x")
        pings.append(payload)
        pongs.append(payload[::-1])
    stream += frame(CLOSE, close(4001, "bye"))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    client = opened()
    answer = b"".join(
        client.feed(stream[start:end]) for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
    )
    assert unmasked(answer) == [*((PONG, ping) for ping in pings), (CLOSE, close(4001))]
    assert client.pongs == pongs
    assert (client.close_code, client.close_reason, client.broken) == (4001, "bye", "")


def test_one_byte_at_a_time():
    stream = frame(BINARY, bytes(300)) + frame(PING, bytes(125)) + frame(BINARY, bytes(66_000)) + frame(PONG, b"p")
    client = opened()
    assert unmasked(feed(client, stream, 1)) == [(PONG, bytes(125))]
    assert client.pongs == [b"p"]


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes(data, size):
    client = opened()
    feed(client, data, size)
    if client.broken:
        assert client.feed(frame(PING, b"")) == b""


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"masked", b"abcd"),
        frame(TEXT, b"x", rsv=4),
        frame(3, b"x"),
        frame(11, b"x"),
        frame(PING, b"x", fin=False),
        frame(PING, bytes(126)),
        b"HTTP/1.1 408 Request Time-out\r\n\r\n",
    ],
)
def test_what_is_no_frame(data):
    client = opened()
    assert client.feed(data) == b""
    assert "not a WebSocket frame" in client.broken


@pytest.mark.parametrize(("payload", "code", "echoed"), [(b"", 1005, 1000), (close(1001), 1001, 1001)])
def test_a_close_is_echoed_once(payload, code, echoed):
    client = opened()
    assert unmasked(client.feed(frame(CLOSE, payload))) == [(CLOSE, close(echoed))]
    assert client.close_code == code
    assert client.feed(frame(PING, b"late")) == b""
    assert client.close() == b""


def test_a_close_with_a_code_that_may_not_be_sent_is_echoed_as_1000():
    client = opened()
    assert unmasked(client.feed(frame(CLOSE, b"\x03\xee\xff"))) == [(CLOSE, close(1000))]
    assert (client.close_code, client.close_reason) == (1006, "\ufffd")


def test_nothing_is_sent_behind_the_close():
    client = opened()
    assert unmasked(client.close()) == [(CLOSE, close(1000))]
    assert client.feed(frame(PING, b"?")) == b""
    assert client.feed(frame(CLOSE, close(1000))) == b""
    assert client.close_code == 1000


def test_pings_are_masked_with_fresh_keys():
    client = opened()
    first, second = client.ping(b"12345678"), client.ping(b"12345678")
    assert unmasked(first) == unmasked(second) == [(PING, b"12345678")]
    assert first != second


def test_the_gateways_own_frames():
    client = opened()
    client.feed(control_frame(PONG, b"x", None) + close_frame(1012, "restart", None))
    assert (client.pongs, client.close_code, client.close_reason) == ([b"x"], 1012, "restart")
