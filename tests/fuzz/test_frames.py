"""Hostile streams: the scanner raises nothing, and finds the same in any chunking and after any handover."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.scanner import FrameScanner
from gateway.protocol.scanner_state import FRAMES, REMAINING, SCANNER_CELLS

from ..protocol.streams import chunkings, header, scanned, seen
from .pieces import MANY

LENGTHS = st.sampled_from([0, 1, 2, 125, 126, 127, 65535, 65536, 2**31, 2**63 - 1, 2**63, 2**64 - 1])


@st.composite
def frames(draw):
    """A frame that may be wrong in any way, and may have fewer bytes than it says, or more."""
    size = draw(LENGTHS | st.integers(0, 40))
    least = 7 if size < 128 else 16 if size < 65536 else 64
    form = draw(st.sampled_from([form for form in (7, 16, 64) if form >= least]))
    if form == 7 and size > 125:
        form = 16
    head = header(
        draw(st.integers(0, 15)), size, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 7)), form
    )
    return head + draw(st.binary(max_size=min(size, 40)) if draw(st.booleans()) else st.just(bytes(min(size, 40))))


# A frame that is right as often as not, or no stream would get far.
RIGHT = st.tuples(st.sampled_from([1, 2, 9, 10]), st.binary(max_size=20)).map(
    lambda frame: header(frame[0], len(frame[1]), False) + frame[1]
)
STREAMS = st.binary(max_size=100) | st.lists(RIGHT | RIGHT | frames(), max_size=8).map(b"".join)


@given(st.data(), st.booleans())
@MANY
def test_any_chunking(data, masked):
    stream = data.draw(STREAMS)
    whole = scanned([stream], masked)
    assert not (whole.broken and whole.closed)
    assert sum(whole.frames.values()) == whole.export_state()[FRAMES]
    assert all(value >= 0 for value in (*whole.frames.values(), whole.export_state()[REMAINING]))
    chunks = data.draw(chunkings(stream))
    assert seen(scanned(chunks, masked)) == seen(whole)
    scanner = FrameScanner(masked=masked)
    for chunk in chunks:
        scanner = FrameScanner(masked=masked, state=scanner.export_state())
        scanner.feed(chunk, 5)
    assert seen(scanner) == seen(whole)


@given(STREAMS, st.booleans())
@MANY
def test_from_boundary_to_boundary(stream, masked):
    scanner = FrameScanner(masked=masked)
    at = 0
    while at < len(stream) and not scanner.closed:
        scanner.feed(stream[at : at + 1], 5)
        position = scanner.next_boundary(stream, at + 1, 5)
        assert at < position <= len(stream)
        assert scanner.at_boundary or position == len(stream)
        at = position
    assert seen(scanner) == seen(scanned([stream], masked))


@given(st.lists(st.binary(max_size=30), max_size=6), st.integers(0, 6))
def test_a_state_of_any_stream_can_be_carried_on_by_any_other(chunks, cut):
    """What is in a row may be of a stream that broke: a successor must still be able to take it."""
    state = scanned(chunks[:cut], True).export_state()
    assert len(state) == SCANNER_CELLS + 16
    scanner = FrameScanner(masked=False, state=state)
    for chunk in chunks[cut:]:
        scanner.feed(chunk)
