"""Keys: from the secrets of a handshake to the cells of a session, and on to the next keys of TLS 1.3."""

from __future__ import annotations

import hmac
from array import array
from functools import cache
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

IV_BYTES = 12
SALT_BYTES = 4
"""Of the IV in TLS 1.2 with GCM: the other 8 bytes of a nonce are in the record (RFC 5288 3)."""

HASH_BYTES = {"sha256": 32, "sha384": 48}
KEY_BYTES = {AES_128_GCM: 16, AES_256_GCM: 32, CHACHA20_POLY1305: 32}


class Suite(NamedTuple):
    """What protects records, and how its keys are derived."""

    number: int
    hash: str


_AES_128 = Suite(AES_128_GCM, "sha256")
_AES_256 = Suite(AES_256_GCM, "sha384")
_CHACHA20 = Suite(CHACHA20_POLY1305, "sha256")
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

_OF_NUMBER = {suite.number: suite for suite in (_AES_128, _AES_256, _CHACHA20)}

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
    octets = memoryview(cells).cast("B")
    cells[VERSION] = TLS13
    cells[SUITE] = suite.number
    cells[ROLE] = role
    received, sent = (client_secret, server_secret) if role == ACCEPTED else (server_secret, client_secret)
    for direction, secret in ((IN, received), (OUT, sent)):
        _put(octets, direction + SECRET, secret)
        _derive(octets, direction, suite, secret)
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
    suite = _OF_NUMBER[cells[at + SUITE]]
    here = at + direction
    octets = memoryview(cells).cast("B")
    size = HASH_BYTES[suite.hash]
    old = bytes(octets[8 * (here + SECRET) : 8 * (here + SECRET) + size])
    secret = expand_label(suite.hash, old, b"traffic upd", size)
    _put(octets, here + SECRET, secret)
    _derive(octets, here, suite, secret)
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


def expand_label(algorithm: str, secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of TLS 1.3 with an empty context (RFC 8446 7.1, RFC 5869 2.3). :param size: bytes wanted"""
    info = _info(label, size)
    out = block = hmac.digest(secret, info + b"\1", algorithm)
    n = 2
    while len(out) < size:
        block = hmac.digest(secret, block + info + bytes((n,)), algorithm)
        out += block
        n += 1
    return out[:size]


@cache
def _info(label: bytes, size: int) -> bytes:
    label = b"tls13 " + label
    return size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0"


def _derive(octets: memoryview[int], here: int, suite: Suite, secret: bytes) -> None:
    """Fill in key and IV of a direction of TLS 1.3 (RFC 8446 7.3)."""
    _put(octets, here + KEY, expand_label(suite.hash, secret, b"key", KEY_BYTES[suite.number]))
    _put(octets, here + IV, expand_label(suite.hash, secret, b"iv", IV_BYTES))


def _put(octets: memoryview[int], at: int, data: bytes) -> None:
    """Write to cells, from cell ``at`` on."""
    octets[8 * at : 8 * at + len(data)] = data
