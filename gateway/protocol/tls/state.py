"""The cells of a session: what a TLS connection consists of after its handshake.

Bytes (keys, IVs, secrets) lie in cells as they lie in memory, in the machine's order.
"""

from __future__ import annotations

TLS12, TLS13 = 0x0303, 0x0304
"""Values of ``VERSION``; 0 means that the connection is plain."""

AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305 = 1, 2, 3
"""Values of ``SUITE``."""

ACCEPTED, DIALLED = 0, 1
"""Values of ``ROLE``: this end was the server or the client of the handshake."""

# Of one direction, as offsets from IN or OUT:
SEQ = 0  # number of the next record (RFC 8446 5.3)
EXPLICIT = 1  # TLS 1.2 with GCM, sending: explicit nonce of record 0 (RFC 5288 3); each record adds its number
IV = 2  # 12 bytes, of which TLS 1.2 with GCM uses 4
KEY = 4  # 16 or 32 bytes
SECRET = 8  # TLS 1.3: traffic secret that the next key is derived from, 32 or 48 bytes (RFC 8446 7.2)
DIRECTION_CELLS = 14

VERSION = 0
SUITE = 1
IN = 2
OUT = IN + DIRECTION_CELLS
(
    ROLE,
    IN_CLOSED,  # 1 once close_notify was received
    OUT_CLOSED,  # 1 once close_notify was sealed
    HALF,  # bytes of an incomplete record that the process holds
    EMPTY_RECORDS,  # records since the last one with data
    HANDSHAKE_HEAD,  # bytes 0 to 3 of a handshake message that has not come whole, as a number
    HANDSHAKE_HAVE,  # how many of them there are
    HANDSHAKE_LEFT,  # bytes of its body that are still to come
    ANSWER_DUE,  # 1 while a KeyUpdate of the peer is to be answered (RFC 8446 4.6.3)
    SENT_NS,  # when data was sealed last
    BURST_BYTES,  # how much was sealed since the last silence
) = range(OUT + DIRECTION_CELLS, OUT + DIRECTION_CELLS + 11)
SESSION_CELLS = 48

IN_SEQ, IN_EXPLICIT, IN_IV, IN_KEY, IN_SECRET = (IN + cell for cell in (SEQ, EXPLICIT, IV, KEY, SECRET))
OUT_SEQ, OUT_EXPLICIT, OUT_IV, OUT_KEY, OUT_SECRET = (OUT + cell for cell in (SEQ, EXPLICIT, IV, KEY, SECRET))

SIZES = {
    **dict.fromkeys(("IN_IV", "OUT_IV"), 2),
    **dict.fromkeys(("IN_KEY", "OUT_KEY"), 4),
    **dict.fromkeys(("IN_SECRET", "OUT_SECRET"), 6),
}
"""Cells of the fields that have more than one."""

FIELDS = (
    *("VERSION", "SUITE", "ROLE"),
    *("IN_SEQ", "IN_EXPLICIT", "IN_IV", "IN_KEY", "IN_SECRET"),
    *("OUT_SEQ", "OUT_EXPLICIT", "OUT_IV", "OUT_KEY", "OUT_SECRET"),
    *("IN_CLOSED", "OUT_CLOSED", "HALF", "EMPTY_RECORDS", "HANDSHAKE_HEAD", "HANDSHAKE_HAVE", "HANDSHAKE_LEFT"),
    *("ANSWER_DUE", "SENT_NS", "BURST_BYTES"),
)
"""Names of all fields of a session."""

if BURST_BYTES >= SESSION_CELLS:
    raise AssertionError("the cells of a session overlap")
