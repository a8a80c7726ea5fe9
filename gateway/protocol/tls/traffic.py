"""The keys of one direction of TLS 1.3, from its traffic secret (RFC 8446 7.3). The pure build of ``traffic.pyx``."""

from __future__ import annotations

import hmac
from array import array
from functools import cache

from gateway.protocol.tls.state import AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, IV, KEY, SECRET

COMPILED = False
IV_BYTES = 12
KEY_BYTES = {AES_128_GCM: 16, AES_256_GCM: 32, CHACHA20_POLY1305: 32}
HASHES = {AES_128_GCM: "sha256", AES_256_GCM: "sha384", CHACHA20_POLY1305: "sha256"}
HASH_BYTES = {"sha256": 32, "sha384": 48}


def put_keys(cells: array[int] | memoryview[int], here: int, suite: int, secret: bytes) -> None:
    """Fill in secret, key and IV of a direction.

    :param here: its first cell
    :param secret: as many bytes as the suite's hash has
    :raises ValueError: there is no such suite, or the secret has another size
    """
    algorithm = HASHES.get(suite)
    if algorithm is None or len(secret) != HASH_BYTES[algorithm]:
        raise ValueError(f"cipher suite {suite} with a secret of {len(secret)} bytes")
    octets = memoryview(cells).cast("B")
    for cell, data in (
        (SECRET, secret),
        (KEY, expand_label(algorithm, secret, b"key", KEY_BYTES[suite])),
        (IV, expand_label(algorithm, secret, b"iv", IV_BYTES)),
    ):
        at = 8 * (here + cell)
        octets[at : at + len(data)] = data


def expand_label(algorithm: str, secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of TLS 1.3 with an empty context (RFC 8446 7.1, RFC 5869 2.3).

    :param algorithm: ``sha256`` or ``sha384``
    :param size: bytes wanted, no more than the hash has: so one HMAC is enough
    :raises ValueError: it is more
    """
    if size > HASH_BYTES[algorithm]:
        raise ValueError(f"{size} bytes of {algorithm}")
    return hmac.digest(secret, _info(label, size), algorithm)[:size]


@cache
def _info(label: bytes, size: int) -> bytes:
    label = b"tls13 " + label
    return size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0\1"
