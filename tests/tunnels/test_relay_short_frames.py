"""One short frame that comes alone, as most messages do, is counted without a scan: nothing else may pass for one.

A scanner that looks at every byte says what the row has to hold.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.protocol.scanner import FrameScanner
from gateway.protocol.scanner_state import (
    BINARY,
    BROKEN,
    CLOSE,
    DATA_AT,
    FRAMES,
    OPCODES,
    OPEN,
    PEER,
    PING,
    PING_AT,
    PONG_AT,
    REST,
    RESTS,
    SCANNER_CELLS,
    STATUS,
    TEXT,
)
from gateway.tunnels.table.layout import BACKEND_SIDE, CLIENT, OPAQUE, SCANNER, SIDE_0, SIDE_CELLS, TOTAL_CELLS, TOTALS

from .harness import Rig
from .wire import frame

MASKED = 0x80
WHOLE = 0x80 | BINARY


def alone(first: int, mask: int, length: int, size: int) -> bytes:
    """What comes at once: two bytes of a header, and zeros up to a size that may not be what the header says."""
    return bytes([first, mask | length]).ljust(size, b"\0")[:size]


@st.composite
def pieces(draw: st.DrawFn) -> bytes:
    """Whole frames for the most part, and all that is nearly one."""
    first = draw(
        st.sampled_from([0x81, WHOLE, 0xC1, 0xC2, 0x01, 0x02, 0x80, 0x00, 0x83, 0x88, 0x89, 0x8A]) | st.integers(0, 255)
    )
    mask = draw(st.sampled_from([0, MASKED]))
    length = draw(st.integers(0, 127))
    right = length + (6 if mask else 2)
    return alone(first, mask, length, max(1, right + draw(st.sampled_from([0, 0, 0, 0, -1, -2, 1, 4, -4, 130]))))


def state(cells: memoryview | list[int], at: int, opcodes: int) -> list[int]:
    """A scanner and its counters, less clocks and what a row has beside."""
    scanner = [cells[at + n] for n in range(SCANNER_CELLS) if n not in (DATA_AT, PING_AT, PONG_AT, PEER)]
    return [*scanner, *cells[opcodes : opcodes + OPCODES]]


@pytest.mark.parametrize("side", [CLIENT, BACKEND_SIDE])
@given(st.lists(pieces(), min_size=1, max_size=8))
@example([alone(WHOLE, 0, 20, 20), b"xx"])  # not at rest is no number that may be right
@example([alone(WHOLE, 0, 10, 12), alone(WHOLE, MASKED, 10, 16)])  # the wrong one of these is of the other direction
@example([alone(WHOLE, MASKED, 10, 16), alone(WHOLE, 0, 124, 2)])  # 2 = 124 - 122: but this one is not masked
@example([alone(0x02, MASKED, 10, 16), alone(WHOLE, MASKED, 10, 16)])  # a message within another one
@example([alone(0x02, 0, 10, 12), alone(WHOLE, 0, 10, 12)])
@example([alone(WHOLE, 0, 10, 12), alone(WHOLE, 0, 126, 128), b"x" * 12])  # its length is in the next bytes
@example([alone(WHOLE, MASKED, 10, 16), alone(0x88, MASKED, 0, 6), alone(WHOLE, MASKED, 10, 16)])  # behind a Close
def test_a_row_says_what_a_scan_says(side: int, chunks: list[bytes]) -> None:
    scanner = FrameScanner(masked=side == CLIENT)
    with closing(Rig()) as rig:
        tunnel = rig.open()
        here = tunnel.row + SIDE_0 + side * SIDE_CELLS + SCANNER
        totals = rig.cells[tunnel.row + TOTALS] + side * TOTAL_CELLS
        for number, chunk in enumerate(chunks, 1):
            rig.relay.feed(tunnel.row, side, chunk)
            scanner.feed(chunk, 5)
            assert state(rig.cells, here, totals) == state(scanner.export_state(), 0, SCANNER_CELLS), number
            assert (rig.cells[here + DATA_AT] != 0) == (scanner.data_at != 0)
        sent = b"".join(chunks)
        rig.until(lambda: tunnel.peer(1 - side).has(sent), "all of it")


@pytest.mark.parametrize(("side", "rest"), [(CLIENT, RESTS[1]), (BACKEND_SIDE, RESTS[0])])
def test_a_stream_is_at_rest_between_two_messages_only(rig: Rig, side: int, rest: int) -> None:
    tunnel = rig.open()
    masked = side == CLIENT
    here = tunnel.row + SIDE_0 + side * SIDE_CELLS + SCANNER
    whole = frame(TEXT, b"a message", masked=masked)

    def then(data: bytes) -> tuple[int, int]:
        rig.relay.feed(tunnel.row, side, data)
        return rig.cells[here + STATUS], rig.cells[here + REST]

    assert rig.cells[here + REST] == 0  # the first scan says
    assert then(whole) == (OPEN, rest)
    assert then(whole[:1]) == (OPEN, 0)
    assert then(whole[1:7]) == (OPEN, 0)
    assert then(whole[7:]) == (OPEN, rest)
    assert then(frame(PING, b"a control frame", masked=masked)) == (OPEN, rest)
    assert then(frame(BINARY, b"a fragment", masked=masked, fin=False)) == (OPEN, 0)
    assert then(frame(PING, b"between fragments", masked=masked)) == (OPEN, 0)
    assert then(frame(0, b"the last", masked=masked)) == (OPEN, rest)
    frames = rig.cells[here + FRAMES]
    assert then(whole) == (OPEN, rest)
    assert rig.cells[here + FRAMES] == frames + 1
    assert then(frame(CLOSE, b"\x03\xe8", masked=masked))[1] == 0


def test_an_opaque_stream_is_not_scanned(rig: Rig) -> None:
    tunnel = rig.open(kind=OPAQUE)
    here = tunnel.row + SIDE_0 + SCANNER
    for _ in range(2):
        rig.relay.feed(tunnel.row, CLIENT, frame(TEXT, b"looks like one", masked=True))
        assert (rig.cells[here + STATUS], rig.cells[here + REST], rig.cells[here + FRAMES]) == (BROKEN, 0, 0)
