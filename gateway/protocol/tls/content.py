"""What records may contain, and how much of it."""

from __future__ import annotations

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
"""Content types (RFC 8446 5.1)."""

HELLO_REQUEST, CLIENT_HELLO, NEW_SESSION_TICKET, KEY_UPDATE = 0, 1, 4, 24
"""Types of handshake messages (RFC 8446 4, RFC 5246 7.4)."""

HEADER_BYTES = 5
MAX_PLAIN_BYTES = 1 << 14
MAX_SEALED_TLS13 = MAX_PLAIN_BYTES + 256
MAX_SEALED_TLS12 = MAX_PLAIN_BYTES + 2048
MAX_RECORD_BYTES = HEADER_BYTES + MAX_SEALED_TLS12
OVERHEAD_BYTES = 29
"""Most that a record is longer than what is in it: header, explicit nonce or content type, tag."""

SMALL_BYTES = 1369
"""Of data in a record that fits into one TCP segment: its receiver can open it when that segment has come."""

SMALL_BURST_BYTES = 14 * 1024
"""How much goes in small records after a silence: about what TCP sends at once on an idle connection (RFC 6928)."""

SILENCE_NS = 1_000_000_000
MAX_EMPTY_RECORDS = 32
"""Records in a row without data or a KeyUpdate. A peer that sends more only costs time."""

MAX_KEY_UPDATES = 256
"""In what is received at once. New keys cost about as much as ten records. Java asks for them with every record that it
has received beyond its limit for a key, until it has the answer: that is once for each 16 KiB on the way."""

MAX_MESSAGE_BYTES = 1 << 17
"""Of a message after the handshake. A session ticket has at most 64 KiB and its extensions (RFC 8446 4.6.1)."""

RECORDS_BY_KEY = 1 << 24
"""Of TLS 1.3 before the gateway changes its key; AES-GCM is safe for 2**24.5 full-size records (RFC 8446 5.5)."""

NOTHING, CLOSED, FATAL_ALERT, BROKEN = 0, 1, 2, 3
"""Values of ``Records.event``: the peer sent close_notify; it sent a fatal alert; its records are invalid."""
