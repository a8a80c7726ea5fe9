"""ClientHellos of our own, to find out what a server offers, as testssl.sh does it: offer all, take away what the
server chooses, offer the rest, until it refuses.

No library can offer what is obsolete, so these are written by hand (RFC 5246, RFC 8446 4.1.2).
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from tests.support.deadline import within
from tests.support.raw import connect

SSL3, TLS10, TLS11, TLS12, TLS13 = 0x0300, 0x0301, 0x0302, 0x0303, 0x0304
HANDSHAKE_FAILURE, PROTOCOL_VERSION, INAPPROPRIATE_FALLBACK = 40, 70, 86
FALLBACK_SCSV = 0x5600

ALL_SUITES = (*range(0x0001, 0x0100), *range(0x1301, 0x1310), *range(0xC001, 0xC100), *range(0xCCA8, 0xCCB0), 0xD001)
"""All numbers that IANA has given to suites, and some that it has not."""

ALL_GROUPS = (*range(1, 42), *range(0x0100, 0x0105), 0x0200, 0x0201, 0x0202, 0x11EB, 0x11EC, 0x6399, 0xFF01, 0xFF02)
"""Elliptic curves, finite fields, and hybrids with ML-KEM."""

ALL_SIGNATURES = (
    0x0403,
    0x0503,
    0x0603,
    0x0807,
    0x0808,
    0x0804,
    0x0805,
    0x0806,
    0x0401,
    0x0501,
    0x0601,
    0x0203,
    0x0201,
)

_RETRY = sha256(b"HelloRetryRequest").digest()
"""The random of a ServerHello that asks for another ClientHello (RFC 8446 4.1.3)."""

_HANDSHAKE, _ALERT = 22, 21
_SERVER_HELLO, _SERVER_KEY_EXCHANGE = 2, 12
_HOST_NAME, _GROUPS, _POINTS, _SIGNATURES, _VERSIONS, _KEY_SHARES = 0, 10, 11, 13, 43, 51


@dataclass
class Chosen:
    """What a server chose, or the alert by which it refused."""

    alert: int | None = None
    version: int = 0
    suite: int = 0
    group: int | None = None
    signature: int | None = None
    """of the key exchange, with TLS 1.2"""
    compression: int = 0


def client_hello(
    version: int,
    suites: Sequence[int] = ALL_SUITES,
    groups: Sequence[int] = ALL_GROUPS,
    signatures: Sequence[int] = ALL_SIGNATURES,
    compressions: bytes = b"\0",
    name: str = "localhost",
) -> bytes:
    """A record with a ClientHello.

    With TLS 1.3 it has no share of any key, so that the server has to say which group it wants.

    :param version: the only one with TLS 1.3, otherwise the highest
    """
    extensions = b""
    if version > SSL3:
        host = b"\0" + _sized(name.encode())
        extensions += _extension(_HOST_NAME, _sized(host))
        extensions += _extension(_GROUPS, _sized(_numbers(groups)))
        extensions += _extension(_POINTS, b"\1\0")
    if version >= TLS12:
        extensions += _extension(_SIGNATURES, _sized(_numbers(signatures)))
    if version == TLS13:
        extensions += _extension(_VERSIONS, b"\2" + _numbers([TLS13]))
        extensions += _extension(_KEY_SHARES, b"\0\0")
    body = _numbers([min(version, TLS12)]) + os.urandom(32) + b"\x20" + os.urandom(32)
    body += _sized(_numbers(suites)) + bytes((len(compressions),)) + compressions
    if extensions:
        body += _sized(extensions)
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return struct.pack("!BHH", _HANDSHAKE, min(version, TLS10), len(message)) + message


async def offer(address: str, hello: bytes) -> Chosen:
    """Send a ClientHello; what the server makes of it."""
    connection = await connect(address)
    try:
        await connection.send(hello)
        return await within(_answer(connection.reader), "an answer to a ClientHello")
    finally:
        await connection.close()


async def all_suites(address: str, version: int) -> set[int]:
    """All suites that a server takes with a version."""
    left = list(ALL_SUITES)
    found: set[int] = set()
    while True:
        chosen = await offer(address, client_hello(version, suites=left))
        if chosen.alert is not None:
            assert chosen.alert == HANDSHAKE_FAILURE, chosen
            return found
        assert chosen.version == version, chosen
        found.add(chosen.suite)
        left.remove(chosen.suite)


async def all_groups(address: str, version: int, suites: Sequence[int] = ALL_SUITES) -> set[int]:
    """All groups that a server takes with a version."""
    left = list(ALL_GROUPS)
    found: set[int] = set()
    while True:
        chosen = await offer(address, client_hello(version, groups=left, suites=suites))
        if chosen.alert is not None:
            assert chosen.alert == HANDSHAKE_FAILURE, chosen
            return found
        assert chosen.version == version, chosen
        assert chosen.group is not None, chosen
        found.add(chosen.group)
        left.remove(chosen.group)


async def _answer(reader: asyncio.StreamReader) -> Chosen:
    messages = b""
    while True:
        kind, _, size = struct.unpack("!BHH", await reader.readexactly(5))
        data = await reader.readexactly(size)
        if kind == _ALERT:
            return Chosen(alert=data[1])
        assert kind == _HANDSHAKE, kind
        messages += data
        chosen = _read(messages)
        if chosen is not None:
            return chosen


def _read(messages: bytes) -> Chosen | None:
    """What the messages of a server say; None if they are not all there."""
    chosen = None
    while len(messages) >= 4:
        kind, size = messages[0], int.from_bytes(messages[1:4], "big")
        body, messages = messages[4 : 4 + size], messages[4 + size :]
        if len(body) < size:
            return None
        if kind == _SERVER_HELLO:
            chosen = _server_hello(body)
            if chosen.version == TLS13 or chosen.suite not in _EPHEMERAL:
                return chosen
        elif kind == _SERVER_KEY_EXCHANGE:
            assert chosen is not None
            assert body[0] == 3, "the key exchange has no named group"
            chosen.group = int.from_bytes(body[1:3], "big")
            at = 4 + body[3]
            chosen.signature = int.from_bytes(body[at : at + 2], "big")
            return chosen
    return None


_EPHEMERAL = (*range(0xC006, 0xC00B), *range(0xC010, 0xC015), *range(0xC023, 0xC031), *range(0xCCA8, 0xCCAA))
"""Suites with ECDHE, as far as servers are likely to have them: a key exchange follows the ServerHello."""


def _server_hello(body: bytes) -> Chosen:
    version = int.from_bytes(body[:2], "big")
    at = 35 + body[34]
    chosen = Chosen(version=version, suite=int.from_bytes(body[at : at + 2], "big"), compression=body[at + 2])
    at += 5
    while at < len(body):
        kind, size = struct.unpack("!HH", body[at : at + 4])
        value = body[at + 4 : at + 4 + size]
        at += 4 + size
        if kind == _VERSIONS:
            chosen.version = int.from_bytes(value, "big")
        elif kind == _KEY_SHARES:
            assert body[2:34] == _RETRY
            chosen.group = int.from_bytes(value, "big")
    return chosen


def _numbers(values: Iterable[int]) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + _sized(data)
