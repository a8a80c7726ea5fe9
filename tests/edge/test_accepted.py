"""A backend's answers of one wording are read once; whatever differs in more than its Sec-WebSocket-Accept is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.accepted import MAX_BYTES, MAX_KNOWN, Accepted
from gateway.protocol.answers import ResponseReader
from gateway.protocol.websocket import WEBSOCKET, accept_of, refusal_of_101

KEYS = [b"dGhlIHNhbXBsZSBub25jZQ==", b"Uc9l9TMkWGbHFD2qnFHltg==", b"AAAAAAAAAAAAAAAAAAAAAA=="]


def answer(key: bytes, *more: bytes) -> bytes:
    lines = (
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept_of(key),
        *more,
    )
    return b"\r\n".join((*lines, b"", b""))


def known(*answers: bytes, key: bytes = KEYS[0], subprotocol: bytes = b"") -> Accepted:
    made = Accepted()
    for each in answers:
        made.remember(each, accept_of(key), subprotocol)
    return made


@pytest.mark.parametrize("subprotocol", [b"", b"v10.stomp"])
@pytest.mark.parametrize("key", KEYS)
def test_the_next_answer_of_that_wording(key: bytes, subprotocol: bytes) -> None:
    accepted = known(answer(KEYS[0], b"Server: x"), subprotocol=subprotocol)
    assert accepted.subprotocol(answer(key, b"Server: x"), accept_of(key)) == subprotocol


def test_another_wording_is_not_known() -> None:
    accepted = known(answer(KEYS[0], b"Server: x"))
    for other in (
        answer(KEYS[1]),
        answer(KEYS[1], b"Server: y"),
        answer(KEYS[1], b"Server: x") + b"\x81\x00",
        answer(KEYS[1], b"Server: x")[:-1],
        answer(KEYS[1], b"Server: x").replace(b"101", b"200"),
        answer(KEYS[0], b"Server: x"),
        b"",
    ):
        assert accepted.subprotocol(other, accept_of(KEYS[1])) is None


def test_the_right_value_elsewhere_does_not_make_up_for_a_wrong_one() -> None:
    """A backend that says the right value in another field, too, and then only there."""
    first = answer(KEYS[0], b"X: " + accept_of(KEYS[0]))
    accepted = known(first)
    cheat = answer(KEYS[0], b"X: " + accept_of(KEYS[1]))
    assert accepted.subprotocol(cheat, accept_of(KEYS[1])) is None
    assert accepted.subprotocol(first, accept_of(KEYS[0])) is None, "not worth knowing"


def test_what_is_known_is_bounded() -> None:
    accepted = known(answer(KEYS[0], b"X: " + MAX_BYTES * b"x"))
    assert accepted.subprotocol(answer(KEYS[0], b"X: " + MAX_BYTES * b"x"), accept_of(KEYS[0])) is None
    for number in range(3 * MAX_KNOWN):
        accepted.remember(answer(KEYS[0], b"Date: %d" % number), accept_of(KEYS[0]), b"")
    assert len(accepted._known) <= MAX_KNOWN
    assert accepted.subprotocol(answer(KEYS[1], b"Date: %d" % number), accept_of(KEYS[1])) == b""


@given(st.data())
def test_nothing_passes_that_reading_would_refuse(data: st.DataObject) -> None:
    """Answers of any wording, of which the right ones become known: no wrong one ever is."""
    accepted = Accepted()
    for _ in range(data.draw(st.integers(1, 8))):
        key = data.draw(st.sampled_from(KEYS))
        value = accept_of(data.draw(st.sampled_from(KEYS)))
        fields = [
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + value,
            b"X: " + accept_of(data.draw(st.sampled_from(KEYS))),
        ]
        chosen = data.draw(st.lists(st.sampled_from(fields), unique=True, min_size=3))
        text = b"\r\n".join((b"HTTP/1.1 101 Switching Protocols", *chosen, b"", b""))
        head = ResponseReader().feed(text)
        assert head is not None
        is_right = refusal_of_101(head, WEBSOCKET, key) is None
        assert accepted.subprotocol(text, accept_of(key)) is None or is_right
        if is_right:
            accepted.remember(text, accept_of(key), b"")
