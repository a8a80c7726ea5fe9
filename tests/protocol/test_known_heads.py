"""A head that is known is what reading it would give, and whatever is in doubt is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.fields import only_upgrade_is_hop_by_hop
from gateway.protocol.heads import BadHead, RequestHead
from gateway.protocol.known_heads import MAX_BYTES, MAX_KNOWN, KnownHeads
from gateway.protocol.requests import RequestReader
from gateway.protocol.websocket import check_handshake, requested_upgrades

from ..fuzz.pieces import MANY, REQUESTS
from .heads import HANDSHAKE, head_bytes

KEYS = [b"dGhlIHNhbXBsZSBub25jZQ==", b"Uc9l9TMkWGbHFD2qnFHltg==", b"AAAAAAAAAAAAAAAAAAAAAA=="]
BROWSER = (
    b"GET /ws/room?id=1 HTTP/1.1",
    b"Host: chat.example.com",
    b"Connection: keep-alive, Upgrade",
    b"User-Agent: Mozilla/5.0",
    b"Upgrade: websocket",
    b"Origin: https://chat.example.com",
    b"Sec-WebSocket-Version: 13",
    b"Cookie: a=b",
    b"Sec-WebSocket-Key: " + KEYS[0],
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
)


def read(data: bytes) -> RequestHead | None:
    """What reading gives; None where there is no whole head, or more behind it, or it is refused."""
    reader = RequestReader()
    try:
        head = reader.feed(data)
    except BadHead:
        return None
    return head if head is not None and head.size == len(data) else None


def told(head: RequestHead | None) -> object:
    """All that a head tells, and what is found in it."""
    if head is None:
        return None
    try:
        key: object = check_handshake(head)
    except BadHead as error:
        key = error.status, str(error)
    return (
        *(head.method, head.target, head.http11, head.raw, head.size, head.count, head.first, head.repeated),
        *(head.fields, head.names, key, requested_upgrades(head), only_upgrade_is_hop_by_hop(head)),
    )


def knowing(*heads: bytes) -> KnownHeads:
    made = KnownHeads()
    for data in heads:
        head = read(data)
        if head is not None:
            told(head)  # which leaves notes in it
            made.remember(head)
    return made


def with_key(data: bytes, key: bytes) -> bytes:
    return data.replace(KEYS[0], key).replace(KEYS[1], key)


@pytest.mark.parametrize("lines", [HANDSHAKE, BROWSER], ids=["small", "browser"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("target", [b"/", b"/ws?id=2", b"/%41~b/../c?a=b&c=(d)", b"/" + b"x" * 900])
def test_another_target_and_key(lines: tuple[bytes, ...], key: bytes, target: bytes) -> None:
    known = knowing(head_bytes(*lines))
    again = with_key(head_bytes(b"GET %b HTTP/1.1" % target, *lines[1:]), key)
    found = known.find(again)
    assert found is not None
    assert told(found) == told(read(again))


def test_a_key_is_not_that_of_who_was_before() -> None:
    known = knowing(head_bytes(*BROWSER))
    found = [known.find(with_key(head_bytes(*BROWSER), key)) for key in KEYS]
    assert [head and head.first[b"sec-websocket-key"] for head in found] == KEYS


@pytest.mark.parametrize(
    "change",
    [
        (b"Cookie: a=b", b"Cookie: a=c"),
        (b"Cookie: a=b\r\n", b""),
        (b"GET ", b"POST "),
        (b"GET ", b"GET  "),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"/ws/room", b"http://chat.example.com/ws/room"),
        (b"/ws/room", b"/ws/r\xf6\xf6m"),
        (b"/ws/room", b"/ws#room"),
        (b"/ws/room", b"/ws room"),
        (b"/ws/room", b""),
        (KEYS[0], KEYS[0][:-1]),
        (KEYS[0], KEYS[0] + b"="),
        (KEYS[0], b"!" + KEYS[0][1:]),
        (KEYS[0], KEYS[0][:-2] + b"\r\n"),
        (b"Sec-WebSocket-Key", b"sec-websocket-key"),
        (b"\r\n\r\n", b"\r\n\r\nmore"),
        (b"\r\n\r\n", b"\r\n"),
        (b"GET", b"\r\nGET"),
    ],
)
def test_whatever_else_is_different_is_read(change: tuple[bytes, bytes]) -> None:
    known = knowing(head_bytes(*BROWSER))
    changed = head_bytes(*BROWSER).replace(*change)
    assert changed != head_bytes(*BROWSER)
    assert known.find(changed) is None


@pytest.mark.parametrize(
    "lines",
    [
        (*BROWSER, b"Sec-WebSocket-Key: " + KEYS[1]),
        (*BROWSER, b"X: " + b"x" * MAX_BYTES),
        (b"GET /ws HTTP/1.1", b"Host: a"),
        tuple(line.replace(b"Version: 13", b"Version: 8") for line in BROWSER),
        tuple(line.replace(b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key:\t") for line in BROWSER),
    ],
)
def test_what_is_not_worth_knowing(lines: tuple[bytes, ...]) -> None:
    known = knowing(head_bytes(*lines))
    assert known.find(head_bytes(*lines)) is None


def test_what_is_known_is_bounded() -> None:
    heads = [head_bytes(*BROWSER, b"X: %d" % n) for n in range(2 * MAX_KNOWN + 1)]
    known = knowing(*heads)
    assert 0 < sum(known.find(head) is not None for head in heads) <= MAX_KNOWN
    assert known.find(heads[-1]) is not None


def test_who_changes_a_head_changes_no_other() -> None:
    known = knowing(head_bytes(*BROWSER))
    first = known.find(head_bytes(*BROWSER))
    assert first is not None
    first.first.clear()
    assert told(known.find(head_bytes(*BROWSER))) == told(read(head_bytes(*BROWSER)))


@given(st.lists(REQUESTS, max_size=3), REQUESTS, st.sampled_from(KEYS))
@MANY
def test_hostile_heads(before: list[bytes], data: bytes, key: bytes) -> None:
    """Whatever became known before, from whomever: nothing is found that reading would not give."""
    data = with_key(data, key)
    known = knowing(*before, with_key(data, KEYS[0]), head_bytes(*HANDSHAKE))
    found = known.find(data)
    assert found is None or told(found) == told(read(data))
