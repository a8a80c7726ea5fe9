"""One record: sealed and opened with the keys of a session (RFC 8446 5.2, RFC 5246 6.2.3.3, RFC 5288, RFC 7905).

The pure build, by ``cryptography``. The compiled one (``protection.pyx``) calls the libcrypto that Python's ``ssl`` has
loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.protocol.tls.state import (
    AES_128_GCM,
    AES_256_GCM,
    CHACHA20_POLY1305,
    EXPLICIT,
    IN,
    IV,
    KEY,
    OUT,
    SEQ,
    SUITE,
    TLS13,
    VERSION,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

COMPILED = False
HEADER_BYTES = 5
TAG_BYTES = 16
EXPLICIT_BYTES = 8
APPLICATION_DATA = 23
_LOW_64 = (1 << 64) - 1


class Protection:
    """The AEAD of all sessions of a process."""

    def open(
        self,
        cells: memoryview[int],
        at: int,
        data: bytearray,
        start: int,
        end: int,
        sink: bytearray,
        sink_at: int,
    ) -> int:
        """Open one whole record, header included: ``data[start:end]``, into ``sink`` from ``sink_at``. The sequence
        number stays.

        :param at: first cell of the session
        :returns: bytes written, with TLS 1.3 including the content type and padding; -1 if it does not authenticate
        """
        key, iv, number = _keys(cells, at + IN, cells[at + SUITE])
        body = start + HEADER_BYTES
        header = bytes(data[start:body])
        if cells[at + VERSION] == TLS13:
            nonce = _xored(iv, number)
            extra = header
        else:
            if cells[at + SUITE] == CHACHA20_POLY1305:
                nonce = _xored(iv, number)
            else:
                nonce = iv[:4] + bytes(data[body : body + EXPLICIT_BYTES])
                body += EXPLICIT_BYTES
            size = end - body - TAG_BYTES
            if size < 0:
                return -1
            extra = number.to_bytes(8, "big") + header[:3] + size.to_bytes(2, "big")
        from cryptography.exceptions import InvalidTag

        try:
            plain = _aead(cells[at + SUITE], key).decrypt(nonce, bytes(data[body:end]), extra)
        except InvalidTag:
            return -1
        sink[sink_at : sink_at + len(plain)] = plain
        return len(plain)

    def seal(
        self,
        cells: memoryview[int],
        at: int,
        kind: int,
        data: bytearray | bytes,
        start: int,
        end: int,
        sink: bytearray,
        sink_at: int,
    ) -> int:
        """Seal ``data[start:end]``, at most 16 KiB, as one record into ``sink`` from ``sink_at``. The sequence number
        stays: the caller has to advance it before the record leaves the process.

        :param at: first cell of the session
        :param kind: content type
        :returns: bytes written
        """
        suite = cells[at + SUITE]
        key, iv, number = _keys(cells, at + OUT, suite)
        plain = bytes(data[start:end])
        explicit = b""
        if cells[at + VERSION] == TLS13:
            nonce = _xored(iv, number)
            size = len(plain) + 1 + TAG_BYTES
            header = bytes((APPLICATION_DATA, 3, 3, size >> 8, size & 0xFF))
            extra = header
            plain += bytes((kind,))
        else:
            if suite == CHACHA20_POLY1305:
                nonce = _xored(iv, number)
            else:
                explicit = ((cells[at + OUT + EXPLICIT] + number) & _LOW_64).to_bytes(8, "big")
                nonce = iv[:4] + explicit
            size = len(explicit) + len(plain) + TAG_BYTES
            header = bytes((kind, 3, 3, size >> 8, size & 0xFF))
            extra = number.to_bytes(8, "big") + header[:3] + len(plain).to_bytes(2, "big")
        record = header + explicit + _aead(suite, key).encrypt(nonce, plain, extra)
        sink[sink_at : sink_at + len(record)] = record
        return len(record)


def _keys(cells: memoryview[int], here: int, suite: int) -> tuple[bytes, bytes, int]:
    """Key, IV and sequence number of a direction."""
    key = cells[here + KEY : here + KEY + 4].tobytes()
    iv = cells[here + IV : here + IV + 2].tobytes()[:12]
    return key[:16] if suite == AES_128_GCM else key, iv, cells[here + SEQ]


def _xored(iv: bytes, number: int) -> bytes:
    """The nonce of a record (RFC 8446 5.3)."""
    return (int.from_bytes(iv, "big") ^ number).to_bytes(12, "big")


def _aead(suite: int, key: bytes) -> AESGCM | ChaCha20Poly1305:
    """The library is imported by the first record: without TLS, a worker does not need its memory.

    :raises ValueError: there is no such suite
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

    if suite in (AES_128_GCM, AES_256_GCM):
        return AESGCM(key)
    if suite == CHACHA20_POLY1305:
        return ChaCha20Poly1305(key)
    raise ValueError(f"there is no cipher suite {suite}")
