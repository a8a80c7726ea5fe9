"""Pings of the gateway's own, and which Pongs answer them (RFC 6455 sections 5.5.2 and 5.5.3).

A Ping carries eight bytes: a random tag of the tunnel's side, and a number that goes up. A peer may answer only the
latest Ping, but never an older one after a newer one: so a Pong is the gateway's if it has the tag and a number that
was sent and not answered yet. Whatever else the endpoints say to each other passes.

Compiled by Cython if a C compiler is available (types in ``pings.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.protocol.frames import FINAL, MASKED
from gateway.protocol.scanner_state import PING, PONG

if TYPE_CHECKING:
    Bytes = bytes | bytearray | memoryview

PAYLOAD = 8
NOT_OURS = 0
PARTIAL = -1


def ping_frame(tag: int, number: int, mask: int) -> bytes:
    """Encode a Ping.

    :param tag: 32 bits
    :param number: 32 bits
    :param mask: 32 random bits toward a server, -1 toward a client (section 5.3)
    """
    if mask < 0:
        return _UNMASKED + tag.to_bytes(4, "big") + number.to_bytes(4, "big")
    return _MASKED + mask.to_bytes(4, "big") + (tag ^ mask).to_bytes(4, "big") + (number ^ mask).to_bytes(4, "big")


_UNMASKED = bytes((FINAL | PING, PAYLOAD))
_MASKED = bytes((FINAL | PING, MASKED | PAYLOAD))


def own_pong(data: Bytes, start: int, end: int, masked: bool, tag: int, answered: int, sent: int) -> int:
    """Tell whether a frame that begins at ``data[start]`` is a Pong for one of the Pings sent.

    :param masked: whether it comes from a client
    :param answered: number of the latest Ping that was answered; those above it, up to ``sent``, are waited for
    :returns: the number of the Ping that it answers, ``NOT_OURS``, or ``PARTIAL`` where ``data[start:end]`` ends before
        that can be said
    """
    if data[start] != FINAL | PONG:
        return NOT_OURS
    if end - start < 2:
        return PARTIAL
    if data[start + 1] != (MASKED | PAYLOAD if masked else PAYLOAD):
        return NOT_OURS
    if end - start < pong_size(masked):
        return PARTIAL
    at = start + 6 if masked else start + 2
    value = 0
    for i in range(PAYLOAD):
        byte = data[at + i]
        if masked:
            byte ^= data[start + 2 + (i & 3)]
        if i == 4:
            if value != tag:
                return NOT_OURS
            value = 0
        value = value << 8 | byte
    return value if answered < value <= sent else NOT_OURS


def pong_size(masked: bool) -> int:
    """Bytes of a Pong that answers a Ping of the gateway's."""
    return 14 if masked else 10
