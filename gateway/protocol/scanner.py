"""Finds frame boundaries in a WebSocket byte stream that is relayed, not parsed (RFC 6455 5.2).

The state of a scanner is a run of integers (``scanner_state.py``) that can live in a row of the shared table, so that
the successor of a dead worker continues where the stream stopped, even in the middle of a frame header. :func:`scan`
works on such a run in place; :class:`FrameScanner` has integers of its own.

Payload is skipped, never copied or unmasked, except in control frames: the close code (5.5.1), and a digest of each
Ping and Pong, which matches a Pong with its Ping (5.5.3). A stream that violates RFC 6455 becomes ``BROKEN`` and is no
longer scanned: the gateway relays it unchanged, and the endpoints judge it. RSV bits are accepted: only the endpoints
know which of them an extension uses (9.2).

Compiled by Cython if a C compiler is available (types in ``scanner.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence, Sequence
from typing import TYPE_CHECKING

from gateway.protocol.scanner_state import (
    BINARY,
    BROKEN,
    CLOSE,
    CLOSE_CODE,
    CLOSED,
    CONTINUATION,
    CONTROL_READ,
    DATA_AT,
    DIGEST,
    EXTENDED,
    FRAMES,
    HEADER_HIGH,
    HEADER_LENGTH,
    HEADER_LOW,
    MASK,
    MASKING,
    MESSAGE,
    NO_STATUS,
    OPCODE,
    OPCODES,
    PEER,
    PING,
    PING_AT,
    PING_ID,
    PLAIN,
    PONG,
    PONG_AT,
    PONG_ID,
    REMAINING,
    REST,
    RESTS,
    SCANNER_CELLS,
    STATUS,
    STOP,
)

if TYPE_CHECKING:
    Bytes = bytes | bytearray | memoryview
    Cells = MutableSequence[int] | memoryview[int]

REST_UNMASKED, REST_MASKED = RESTS
DIGEST_MODULUS = 2**52 - 47  # a prime: with the factor below, what is reduced fits in 63 bits
DIGEST_FACTOR = 1031


def scan(cells: Cells, s: int, c: int, data: Bytes, start: int, end: int, now: int, stop: int) -> int:
    """Advance a scanner over ``data[start:end]``.

    :param cells: 64-bit integers that hold the state and the counters
    :param s: index of the scanner's first integer in ``cells``
    :param c: index of ``OPCODES`` counters in ``cells``, one for each opcode
    :param now: a clock in any unit, noted in ``DATA_AT`` when bytes of a data frame go by
    :param stop: 0 to go on to the end, ``STOP`` to return at the first frame boundary at or after ``start``,
        ``PASS_ONE`` to return at the first behind a frame that began at or after ``start``
    :returns: index up to which ``data`` was looked at: ``end``, or the boundary where it stopped
    """
    pos = start
    remaining = cells[s + REMAINING]
    if remaining:
        # Payload of a frame whose header came earlier.
        opcode = cells[s + OPCODE]
        if opcode < CLOSE:
            cells[s + DATA_AT] = now
        else:
            _read_control(cells, s, opcode, data, pos, end, remaining, now)
        if remaining > end - pos:
            cells[s + REMAINING] = remaining - (end - pos)
            return end
        cells[s + REMAINING] = 0
        pos += remaining
    if cells[s + STATUS]:
        return pos if stop and cells[s + STATUS] == CLOSED else end
    kept = partial = cells[s + HEADER_LENGTH]
    masking = cells[s + MASKING]
    message = before = cells[s + MESSAGE]
    frames = 0
    opcode = -1
    low = 0
    seen_data = False
    broken = False
    remaining = 0
    while pos < end:
        if stop and not kept and (stop == STOP or frames):
            break
        if kept or end - pos < 14:
            # A header that TCP may have cut: gather it byte by byte until it is whole.
            low = cells[s + HEADER_LOW] if kept else 0
            high = cells[s + HEADER_HIGH] if kept else 0
            need = _header_size(low, kept)
            while kept < need and pos < end:
                if kept < 8:
                    low |= _shifted(data[pos], kept)
                else:
                    high |= _shifted(data[pos], kept - 8)
                kept += 1
                pos += 1
                need = _header_size(low, kept)
            if kept < need:
                cells[s + HEADER_LOW] = low
                cells[s + HEADER_HIGH] = high
                break
            kept = 0
            first = low & 0xFF
            second = (low >> 8) & 0xFF
            size = second & 0x7F
            head = -1
            if size == 126:
                size = ((low >> 8) & 0xFF00) | ((low >> 24) & 0xFF)
                broken = size < 126  # lengths are encoded in the fewest bytes (5.2)
            elif size == 127:
                size = 0
                for i in range(2, 8):
                    size = (size << 8) | ((low >> (i * 8)) & 0xFF)
                size = (size << 16) | ((high & 0xFF) << 8) | ((high >> 8) & 0xFF)
                broken = size < 65536 or (low >> 16) & 0x80 != 0
        else:
            first = data[pos]
            second = data[pos + 1]
            size = second & 0x7F
            head = pos + 2
            if size < 126:
                pos += 2
            elif size == 126:
                size = (data[pos + 2] << 8) | data[pos + 3]
                pos += 4
                broken = size < 126
            else:
                size = 0
                for i in range(2, 10):
                    size = (size << 8) | data[pos + i]
                broken = size < 65536 or data[pos + 2] & 0x80 != 0
                pos += 10
            if second & 0x80:
                pos += 4
        opcode = first & 0x0F
        if (second >> 7) != masking:  # clients mask, servers do not (5.1)
            broken = True
        if opcode < CLOSE:
            # A message is text or binary, then continuations (5.4); opcodes 3 to 7 are reserved (5.2).
            if opcode > BINARY or (opcode == CONTINUATION) != (message > 0):
                broken = True
            if first & 0x80:
                message = 0
            elif opcode != CONTINUATION:
                message = EXTENDED if first & 0x70 else PLAIN
            seen_data = True
        else:
            # Control frames are not fragmented and have at most 125 bytes (5.5); a close code has two bytes (5.5.1).
            if opcode > PONG or size > 125 or first & 0x80 == 0 or (opcode == CLOSE and size == 1):
                broken = True
        if broken:
            break
        frames += 1
        cells[c + opcode] += 1
        if opcode >= CLOSE:
            if second & 0x80 == 0:
                mask = 0
            elif head < 0:
                mask = ((low >> 16) & 0xFFFF) | (((low >> 32) & 0xFFFF) << 16)
            else:
                mask = data[head] | (data[head + 1] << 8) | (data[head + 2] << 16) | (data[head + 3] << 24)
            cells[s + MASK] = mask
            cells[s + CONTROL_READ] = 0
            cells[s + DIGEST] = 0
            if opcode == CLOSE:
                cells[s + CLOSE_CODE] = 0 if size else NO_STATUS
            _read_control(cells, s, opcode, data, pos, end, size, now)
        if size > end - pos:
            remaining = size - (end - pos)
            pos = end
            break
        pos += size
        if opcode == CLOSE:
            break
    # Most often whole frames have come: little has changed then, and little is written.
    if kept or partial:
        cells[s + HEADER_LENGTH] = kept
    if frames:
        cells[s + FRAMES] += frames
    if seen_data:
        cells[s + DATA_AT] = now
    if message != before:
        cells[s + MESSAGE] = message
    if broken:
        cells[s + STATUS] = BROKEN
        pos = end
    elif remaining:
        cells[s + OPCODE] = opcode
        cells[s + REMAINING] = remaining
    if kept or message or broken or remaining or cells[s + STATUS]:
        rest = 0
    else:
        rest = REST_MASKED if masking else REST_UNMASKED
    if cells[s + REST] != rest:
        cells[s + REST] = rest
    return pos if stop else end


def _header_size(low: int, kept: int) -> int:
    """Bytes that a header will have, as far as the ``kept`` bytes of it tell; ``low`` holds the first of them."""
    if kept < 2:
        return 2
    second = (low >> 8) & 0xFF
    size = 6 if second & 0x80 else 2
    if second & 0x7F == 126:
        return size + 2
    if second & 0x7F == 127:
        return size + 8
    return size


def _shifted(byte: int, places: int) -> int:
    """``byte`` moved up by ``places`` bytes, as the signed 64-bit integer that a cell holds."""
    value = byte << (places * 8)
    if value > 0x7FFFFFFFFFFFFFFF:
        value -= 0x10000000000000000
    return value


def _read_control(cells: Cells, s: int, opcode: int, data: Bytes, pos: int, end: int, left: int, now: int) -> None:
    """Read what ``data[pos:end]`` holds of a control frame's payload, and note the frame once it is whole.

    :param left: payload bytes from ``pos`` on
    """
    got = cells[s + CONTROL_READ]
    mask = cells[s + MASK]
    whole = left <= end - pos
    stop = pos + left if whole else end
    if opcode == CLOSE:
        # Its code is in the first two bytes (5.5.1).
        while got < 2 and pos < stop:
            cells[s + CLOSE_CODE] = (cells[s + CLOSE_CODE] << 8) | (data[pos] ^ ((mask >> (8 * got)) & 0xFF))
            got += 1
            pos += 1
        if whole:
            cells[s + STATUS] = CLOSED
    else:
        digest = cells[s + DIGEST]
        while pos < stop:
            byte = data[pos] ^ ((mask >> (8 * (got & 3))) & 0xFF)
            digest = (digest * DIGEST_FACTOR + byte + 1) % DIGEST_MODULUS
            got += 1
            pos += 1
        cells[s + DIGEST] = digest
        if whole and opcode == PING:
            cells[s + PING_ID] = digest
            cells[s + PING_AT] = now
        elif whole:
            cells[s + PONG_ID] = digest
            cells[s + PONG_AT] = now
            peer = cells[s + PEER]
            if peer and cells[s + peer + PING_ID] == digest:
                cells[s + peer + PING_AT] = 0
    cells[s + CONTROL_READ] = got


class FrameScanner:
    """One direction of a WebSocket stream, fed in chunks of any size."""

    def __init__(self, *, masked: bool, state: Sequence[int] | None = None) -> None:
        """
        :param masked: whether frames of this direction must be masked: true from client to backend
        :param state: what :meth:`export_state` returned earlier, to carry on from there
        :raises ValueError: ``state`` has not the length that :meth:`export_state` gives
        """
        if state is None:
            state = [0] * (SCANNER_CELLS + OPCODES)
        elif len(state) != SCANNER_CELLS + OPCODES:
            raise ValueError(f"a scanner's state is {SCANNER_CELLS + OPCODES} integers, not {len(state)}")
        self.cells = array("q", state)
        self.cells[MASKING] = 1 if masked else 0

    def feed(self, data: Bytes, now: int = 0) -> None:
        """Look at the next bytes of the stream. :param now: clock, see :attr:`data_at`."""
        scan(self.cells, 0, SCANNER_CELLS, data, 0, len(data), now, 0)

    def next_boundary(self, data: Bytes, start: int = 0, now: int = 0) -> int:
        """Look at ``data[start:]`` up to the first frame boundary; return where that is, or ``len(data)``."""
        position: int = scan(self.cells, 0, SCANNER_CELLS, data, start, len(data), now, STOP)
        return position

    def export_state(self) -> list[int]:
        """The whole state as integers, for a scanner elsewhere."""
        return list(self.cells)

    @property
    def at_boundary(self) -> bool:
        """Whether the stream stands between two frames. Never true again once the stream is broken."""
        return not (self.cells[REMAINING] or self.cells[HEADER_LENGTH] or self.cells[STATUS] == BROKEN)

    @property
    def broken(self) -> bool:
        """Whether the stream broke RFC 6455, and scanning stopped."""
        return self.cells[STATUS] == BROKEN

    @property
    def closed(self) -> bool:
        """Whether a whole Close frame has gone by."""
        return self.cells[STATUS] == CLOSED

    @property
    def close_code(self) -> int | None:
        """Code of the Close frame, 1005 where it had none; None before it was read."""
        return self.cells[CLOSE_CODE] or None if self.cells[STATUS] == CLOSED else None

    @property
    def frames(self) -> dict[int, int]:
        """Frames seen, by opcode."""
        return {op: n for op in range(OPCODES) if (n := self.cells[SCANNER_CELLS + op])}

    @property
    def data_at(self) -> int:
        """Clock of the latest byte of a data frame (opcodes 0 to 2)."""
        return self.cells[DATA_AT]
