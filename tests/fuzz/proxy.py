"""A connection that begins with any bytes, read as a PROXY header.

For hypothesis (``test_proxy.py``) and for atheris, which is guided by what the code has not done yet::

    python -m tests.fuzz.proxy -max_total_time=300
"""

from __future__ import annotations

import sys

from gateway.protocol.proxy import MAX_HEADER_BYTES, MAX_LINE_BYTES, BadHeader, Header, HeaderReader, NoHeader
from tests.protocol.proxy import SIGNATURE

LINE_START = b"PROXY "
BEGINNINGS = (
    b"",
    b"PROXY TCP4 ",
    b"PROXY TCP6 2001:db8::7 2001:db8::1 ",
    SIGNATURE,
    SIGNATURE + b"\x21\x11\0",
    SIGNATURE + b"\x21\x21\0",
    SIGNATURE + b"\x21\x11\0\x1a" + bytes(12),
    SIGNATURE + b"\x20\0\0",
)
"""What takes long to guess."""
Outcome = Header | tuple[type[BadHeader], str] | None
"""A header, the error's kind and reason, or None where it is not whole."""


def outcome(*pieces: bytes) -> Outcome:
    """What is read of these pieces."""
    reader = HeaderReader()
    for piece in pieces:
        try:
            header = reader.feed(piece)
        except BadHeader as error:
            return type(error), str(error)
        if header is not None:
            return header
    return None


def play(data: bytes) -> None:
    """Read the bytes whole and in pieces, and check what holds for any header.

    :param data: its first byte says how they begin, and how large the pieces are
    :raises AssertionError: it does not hold
    """
    step, beginning = divmod(data[0] if data else 0, len(BEGINNINGS))
    step += 1
    sent = BEGINNINGS[beginning] + data[1:]
    made = outcome(sent)
    assert outcome(*(sent[at : at + step] for at in range(0, len(sent), step))) == made
    check(sent, made)


def check(sent: bytes, made: Outcome) -> None:
    """Check what was read of these bytes."""
    is_block, is_line = sent.startswith(SIGNATURE), sent.startswith(LINE_START)
    if made is None:
        assert len(sent) < (MAX_LINE_BYTES if is_line else MAX_HEADER_BYTES)
        assert is_block or is_line or SIGNATURE.startswith(sent) or LINE_START.startswith(sent)
    elif isinstance(made, Header):
        assert made.size <= (MAX_HEADER_BYTES if is_block else MAX_LINE_BYTES)
        assert outcome(sent[: made.size]) == made
        assert outcome(sent[: made.size - 1]) is None
        assert (made.source is None) == (made.destination is None)
        for _, port in filter(None, (made.source, made.destination)):
            assert 0 <= port <= 65535
    else:
        assert (made[0] is NoHeader) == (not is_block and not is_line)
        assert made[1].isprintable()


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, play)
    atheris.Fuzz()
