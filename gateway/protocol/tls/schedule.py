"""Keys: from the secrets of a handshake to the cells of a session, and on to the next keys of TLS 1.3."""

from __future__ import annotations

import hmac
from array import array
from typing import NamedTuple

from gateway.protocol.tls.state import (
    ACCEPTED,
    AES_128_GCM,
    AES_256_GCM,
    CHACHA20_POLY1305,
    EXPLICIT,
    IN,
    IV,
    KEY,
    OUT,
    ROLE,
    SECRET,
    SEQ,
    SESSION_CELLS,
    SUITE,
    TLS12,
    TLS13,
    VERSION,
)
from gateway.protocol.tls.traffic import HASH_BYTES, HASHES, IV_BYTES, KEY_BYTES, expand_label, put_keys

SALT_BYTES = 4
"""Of the IV in TLS 1.2 with GCM: the other 8 bytes of a nonce are in the record (RFC 5288 3)."""


class Suite(NamedTuple):
    """What protects records, and how its keys are derived."""

    number: int
    hash: str


_AES_128, _AES_256, _CHACHA20 = (
    Suite(number, HASHES[number]) for number in (AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305)
)
SUITES = {
    "TLS_AES_128_GCM_SHA256": _AES_128,
    "TLS_AES_256_GCM_SHA384": _AES_256,
    "TLS_CHACHA20_POLY1305_SHA256": _CHACHA20,
    "ECDHE-ECDSA-AES128-GCM-SHA256": _AES_128,
    "ECDHE-RSA-AES128-GCM-SHA256": _AES_128,
    "ECDHE-ECDSA-AES256-GCM-SHA384": _AES_256,
    "ECDHE-RSA-AES256-GCM-SHA384": _AES_256,
    "ECDHE-ECDSA-CHACHA20-POLY1305": _CHACHA20,
    "ECDHE-RSA-CHACHA20-POLY1305": _CHACHA20,
}
"""By OpenSSL's name: those of TLS 1.3, and of TLS 1.2 those of Mozilla's "intermediate" with ECDHE and an AEAD."""

_EMPTY = bytes(8 * SESSION_CELLS)


def session_of_tls13(
    suite: Suite, role: int, client_secret: bytes, server_secret: bytes, out_seq: int = 0
) -> array[int]:
    """The session of a connection of TLS 1.3 whose handshake is complete.

    :param role: ``ACCEPTED`` or ``DIALLED``
    :param client_secret: ``client_application_traffic_secret_0``; ``server_secret`` likewise (RFC 8446 7.1)
    :param out_seq: records that were sent with the keys of ``OUT`` already: tickets
    """
    cells = array("q", _EMPTY)
    cells[VERSION] = TLS13
    cells[SUITE] = suite.number
    cells[ROLE] = role
    received, sent = (client_secret, server_secret) if role == ACCEPTED else (server_secret, client_secret)
    for direction, secret in ((IN, received), (OUT, sent)):
        put_keys(cells, direction, suite.number, secret)
    cells[OUT + SEQ] = out_seq
    return cells


def session_of_tls12(
    suite: Suite, role: int, master: bytes, client_random: bytes, server_random: bytes, explicit: bytes = b""
) -> array[int]:
    """The session of a connection of TLS 1.2 whose handshake is complete: each end has sent one record, ``Finished``.

    :param role: ``ACCEPTED`` or ``DIALLED``
    :param master: master secret (RFC 5246 8.1, RFC 7627)
    :param explicit: with GCM, the explicit nonce of the ``Finished`` that was sent. Those of the following records
        continue it, so that no nonce is used twice
    """
    cells = array("q", _EMPTY)
    octets = memoryview(cells).cast("B")
    cells[VERSION] = TLS12
    cells[SUITE] = suite.number
    cells[ROLE] = role
    key_bytes = KEY_BYTES[suite.number]
    iv_bytes = IV_BYTES if suite.number == CHACHA20_POLY1305 else SALT_BYTES
    # RFC 5246 6.3: the client's key, the server's key, the client's IV, the server's IV
    block = prf(suite.hash, master, b"key expansion", server_random + client_random, 2 * (key_bytes + iv_bytes))
    received, sent = (0, 1) if role == ACCEPTED else (1, 0)
    for direction, n in ((IN, received), (OUT, sent)):
        _put(octets, direction + KEY, block[n * key_bytes : (n + 1) * key_bytes])
        at = 2 * key_bytes + n * iv_bytes
        _put(octets, direction + IV, block[at : at + iv_bytes])
        cells[direction + SEQ] = 1
    cells[OUT + EXPLICIT] = int.from_bytes(explicit, "big") - (1 << 64 if explicit[:1] >= b"\x80" else 0)
    return cells


def next_keys(cells: array[int] | memoryview[int], at: int, direction: int) -> None:
    """Replace the keys of a direction of a TLS 1.3 session by the next ones (RFC 8446 7.2).

    :param at: first cell of the session
    :param direction: ``IN`` or ``OUT``
    """
    suite = cells[at + SUITE]
    algorithm = HASHES[suite]
    size = HASH_BYTES[algorithm]
    here = at + direction
    # By cells, as all writing to rows: a test kills the process between any two of them.
    old = array("q", (cells[here + SECRET + n] for n in range(size // 8))).tobytes()
    fresh = array("q", _EMPTY)
    put_keys(fresh, IN, suite, expand_label(algorithm, old, b"traffic upd", size))
    for cell, width in ((SECRET, size), (KEY, KEY_BYTES[suite]), (IV, IV_BYTES)):
        width = -(-width // 8)
        cells[here + cell : here + cell + width] = fresh[IN + cell : IN + cell + width]
    cells[here + SEQ] = 0


def prf(algorithm: str, secret: bytes, label: bytes, seed: bytes, size: int) -> bytes:
    """The pseudorandom function of TLS 1.2 (RFC 5246 section 5). :param size: bytes wanted"""
    seed = label + seed
    block = seed
    out = b""
    while len(out) < size:
        block = hmac.digest(secret, block, algorithm)
        out += hmac.digest(secret, block + seed, algorithm)
    return out[:size]


def _put(octets: memoryview[int], at: int, data: bytes) -> None:
    """Write to cells, from cell ``at`` on."""
    octets[8 * at : 8 * at + len(data)] = data
