"""The gateway's own Pings, and the Pongs that answer them, told from all others wherever a read ends."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.protocol.pings import NOT_OURS, PARTIAL, own_pong, ping_frame, pong_size
from tests.support.frames import BINARY, CLOSE, PING, PONG, TEXT, frame

MOST = 2**32 - 1
TAGS = st.integers(0, MOST)
NUMBERS = st.integers(1, MOST)
MASKS = st.none() | st.binary(min_size=4, max_size=4)
AROUND = st.binary(max_size=30)


def payload(tag, number):
    return tag.to_bytes(4, "big") + number.to_bytes(4, "big")


def pong(tag, number, mask=None):
    """What an endpoint answers. :param mask: of a client"""
    return frame(PONG, payload(tag, number), mask)


def found(data, tag, answered, sent, masked, start=0, end=None):
    return own_pong(data, start, len(data) if end is None else end, masked, tag, answered, sent)


@given(TAGS, NUMBERS, MASKS)
@example(0, 1, None)
@example(MOST, MOST, b"\xff\xff\xff\xff")
@example(1, 1, bytes(4))
def test_a_ping_is_a_frame_as_anyone_would_write_it(tag, number, mask):
    key = -1 if mask is None else int.from_bytes(mask, "big")
    assert ping_frame(tag, number, key) == frame(PING, payload(tag, number), mask)


@pytest.mark.parametrize(("mask", "size"), [(None, 10), (b"abcd", 14)])
def test_the_size_of_a_pong(mask, size):
    assert pong_size(mask is not None) == size == len(pong(1, 1, mask))


@given(st.data())
def test_a_pong_is_found_whatever_lies_around_it(data):
    tag, mask = data.draw(TAGS), data.draw(MASKS)
    sent = data.draw(NUMBERS)
    number = data.draw(st.integers(1, sent))
    answered = data.draw(st.integers(0, number - 1))
    before, after = data.draw(AROUND), data.draw(AROUND)
    whole = before + pong(tag, number, mask) + after
    assert found(whole, tag, answered, sent, mask is not None, len(before)) == number


@given(TAGS, NUMBERS, MASKS, AROUND)
def test_a_pong_that_was_cut_is_partial_until_its_last_byte(tag, number, mask, before):
    answer = pong(tag, number, mask)
    rubbish = bytes(byte ^ 0xFF for byte in answer)
    for cut in range(1, len(answer)):
        # What lies behind the cut is left from an earlier read, and must not be looked at.
        data = before + answer[:cut] + rubbish[cut:]
        assert found(data, tag, 0, number, mask is not None, len(before), len(before) + cut) == PARTIAL
    assert found(before + answer, tag, 0, number, mask is not None, len(before)) == number


@pytest.mark.parametrize("mask", [None, b"\x01\x80\xff\x00"], ids=["backend", "client"])
@pytest.mark.parametrize(
    ("number", "answered", "sent"),
    [(7, 7, 8), (6, 7, 8), (9, 7, 8), (0, 0, 8), (MOST, 7, 8), (1, 1, 1)],
    ids=["answered", "earlier than that", "not sent", "number 0", "highest of all", "the only one, again"],
)
def test_a_pong_for_no_ping_that_is_waited_for(number, answered, sent, mask):
    assert found(pong(0xABCD, number, mask), 0xABCD, answered, sent, mask is not None) == NOT_OURS
    assert found(pong(0xABCD, sent, mask), 0xABCD, answered, sent, mask is not None) == (
        NOT_OURS if answered == sent else sent
    )


FOREIGN = {
    "another tag": lambda mask: pong(0xABCC, 5, mask),
    "the number first": lambda mask: frame(PONG, payload(5, 0xABCD), mask),
    "nothing in it": lambda mask: frame(PONG, b"", mask),
    "seven bytes": lambda mask: frame(PONG, payload(0xABCD, 5)[:7], mask),
    "nine bytes": lambda mask: frame(PONG, payload(0xABCD, 5) + b"\0", mask),
    "125 bytes": lambda mask: frame(PONG, payload(0xABCD, 5) + bytes(117), mask),
    "a Ping": lambda mask: frame(PING, payload(0xABCD, 5), mask),
    "text": lambda mask: frame(TEXT, payload(0xABCD, 5), mask),
    "binary": lambda mask: frame(BINARY, payload(0xABCD, 5), mask),
    "a Close": lambda mask: frame(CLOSE, payload(0xABCD, 5), mask),
    "a fragment": lambda mask: frame(PONG, payload(0xABCD, 5), mask, fin=False),
    "a reserved bit": lambda mask: frame(PONG, payload(0xABCD, 5), mask, rsv=4),
    "the other side's masking": lambda mask: pong(0xABCD, 5, None if mask else b"\1\2\3\4"),
}


@pytest.mark.parametrize("mask", [None, b"\x01\x80\xff\x00"], ids=["backend", "client"])
@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_any_other_frame_passes(foreign, mask):
    data = foreign(mask)
    assert found(data + bytes(20), 0xABCD, 0, 9, mask is not None, 0, len(data) + 20) == NOT_OURS
    assert found(data + pong(0xABCD, 5, mask), 0xABCD, 0, 9, mask is not None) == NOT_OURS


@given(st.binary(min_size=1, max_size=40), TAGS, st.booleans(), st.data())
def test_any_bytes_whatever(data, tag, masked, draw):
    """Only what begins as such a Pong does is ever held back, and never once there is enough to tell."""
    end = draw.draw(st.integers(1, len(data)))
    result = found(data, tag, 0, MOST, masked, 0, end)
    like_one = data[0] == 0x8A and (end < 2 or data[1] == (0x88 if masked else 0x08))
    if not like_one:
        assert result == NOT_OURS
    elif end < pong_size(masked):
        assert result == PARTIAL
    else:
        body = data[2:10] if not masked else bytes(byte ^ data[2 + i % 4] for i, byte in enumerate(data[6:14]))
        own = body[:4] == tag.to_bytes(4, "big") and body[4:] != bytes(4)
        assert result == (int.from_bytes(body[4:], "big") if own else NOT_OURS)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_kinds_of_bytes(kind):
    assert found(kind(pong(1, 2)), 1, 0, 2, False) == 2
