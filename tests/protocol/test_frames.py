"""Frames that the gateway writes, read by the parser of the websockets library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from gateway.protocol.frames import close_frame, control_frame
from gateway.protocol.scanner_state import CLOSE, PING, PONG

MASKS = st.none() | st.binary(min_size=4, max_size=4)


def parsed(data, masked):
    """The one frame that ``data`` is. The parser refuses one that is masked, or not, against ``masked``."""
    reader = StreamReader()
    reader.feed_data(data)
    parser = Frame.parse(reader.read_exact, mask=masked)
    with pytest.raises(StopIteration) as stop:
        next(parser)
    assert not reader.buffer
    return stop.value.value


@given(st.sampled_from([CLOSE, PING, PONG]), st.binary(max_size=125), MASKS)
def test_control_frames(opcode, payload, mask):
    frame = parsed(control_frame(opcode, payload, mask), mask is not None)
    assert frame == Frame(opcode, payload)


def test_the_ping_of_the_rfc():
    assert control_frame(PING, b"Hello", None) == bytes.fromhex("890548656c6c6f")
    assert control_frame(PONG, b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("8a8537fa213d7f9f4d5158")


def test_too_long():
    with pytest.raises(ValueError, match="125"):
        control_frame(PING, bytes(126), None)


@pytest.mark.parametrize("mask", [b"", b"abc", b"abcde"])
def test_masks_of_another_size(mask):
    with pytest.raises(ValueError, match="mask"):
        control_frame(PING, b"", mask)


@given(st.sampled_from([1000, 1001, 1012, 3000, 4999]), st.text(max_size=200), MASKS)
def test_close_frames(code, reason, mask):
    frame = parsed(close_frame(code, reason, mask), mask is not None)
    assert frame.opcode is Opcode.CLOSE
    close = Close.parse(frame.data)
    assert close.code == code
    assert reason.startswith(close.reason)
    assert len(frame.data) == 125 or close.reason == reason or len(reason.encode()) > 123


def test_a_reason_is_cut_at_a_characters_end():
    frame = parsed(close_frame(1001, "é" * 100, None), False)
    assert Close.parse(frame.data).reason == "é" * 61


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536])
def test_codes_that_never_go_on_the_wire(code):
    with pytest.raises(ValueError, match=str(code)):
        close_frame(code, "", None)
