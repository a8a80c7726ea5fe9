"""PROXY headers: what is read of them, what is refused, and what is written."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.proxy import (
    MAX_HEADER_BYTES,
    MAX_LINE_BYTES,
    BadHeader,
    Header,
    HeaderReader,
    NoHeader,
    crc32c,
    header_bytes,
    own_header_bytes,
)

from .proxy import (
    CRC32C,
    IPV4,
    IPV6,
    LOCAL,
    NOOP,
    PORTS,
    PROXY,
    SIGNATURE,
    SSL,
    TCP4,
    TCP6,
    UDP4,
    UDP6,
    UNIX_DGRAM,
    UNIX_STREAM,
    UNSPEC,
    bitwise_crc32c,
    block,
    v1,
    v2,
    vector,
    with_checksum,
)
from .streams import chunkings, one_by_one

SOURCE, DESTINATION = ("203.0.113.7", 51000), ("192.0.2.1", 443)
SOURCE6, DESTINATION6 = ("2001:db8::7", 51000), ("2001:db8::1", 443)
TWELVE = bytes(12)
BEHIND = b"GET / HTTP/1.1\r\n\r\n"


def read(*pieces: bytes) -> tuple[Header, bytes] | str | None:
    """The header and what is behind it, the reason for which it is refused, or None if it is not whole."""
    reader = HeaderReader()
    header = None
    for at, piece in enumerate(pieces):
        try:
            header = reader.feed(piece)
        except BadHeader as error:
            return str(error)
        if header is not None:
            return header, reader.received[header.size :] + b"".join(pieces[at + 1 :])
    return None


@pytest.mark.parametrize(
    ("data", "source", "destination"),
    [
        (v1("203.0.113.7", "192.0.2.1"), SOURCE, DESTINATION),
        (v1("2001:db8::7", "2001:db8::1"), SOURCE6, DESTINATION6),
        (v1("2001:DB8:0:0:0:0:0:7", "2001:0db8::0001"), SOURCE6, DESTINATION6),
        (v1("::ffff:203.0.113.7", "::ffff:c000:201"), SOURCE, DESTINATION),
        (v1("0.0.0.0", "255.255.255.255", 0, 65535), ("0.0.0.0", 0), ("255.255.255.255", 65535)),
        (v2("203.0.113.7", "192.0.2.1"), SOURCE, DESTINATION),
        (v2("2001:db8::7", "2001:db8::1"), SOURCE6, DESTINATION6),
        (v2("::ffff:203.0.113.7", "::ffff:192.0.2.1"), SOURCE, DESTINATION),
        (v2("203.0.113.7", "192.0.2.1", vectors=vector(SSL, bytes(9)) + vector(NOOP, b"")), SOURCE, DESTINATION),
        (with_checksum(v2("203.0.113.7", "192.0.2.1")), SOURCE, DESTINATION),
        (with_checksum(v2("2001:db8::7", "2001:db8::1", vectors=vector(0xEA, b"vpce"))), SOURCE6, DESTINATION6),
    ],
)
def test_a_client_is_named(data, source, destination):
    for pieces in ([data + BEHIND], [data, BEHIND], one_by_one(data + BEHIND)):
        assert read(*pieces) == (Header(len(data), source, destination, False), BEHIND)


@pytest.mark.parametrize(
    ("data", "is_local"),
    [
        (b"PROXY UNKNOWN\r\n", False),
        (b"PROXY UNKNOWN " + b"ffff:" * 15 + b" 1\r\n", False),
        (b"PROXY UNKNOWN" + b" " * (MAX_LINE_BYTES - 15) + b"\r\n", False),
        (block(LOCAL, UNSPEC), True),
        (block(LOCAL, TCP4, TWELVE), True),
        (block(LOCAL, TCP6, b"what is here is ignored"), True),
        (with_checksum(block(LOCAL, UNSPEC)), True),
        (block(PROXY, UNSPEC), False),
        (block(PROXY, UNSPEC, b"\xff\xff"), False),
        (block(PROXY, UNIX_STREAM, b"/a".ljust(108, b"\0") * 2), False),
        (block(PROXY, UNIX_STREAM, bytes(216), vector(NOOP, b"x")), False),
        (block(PROXY, UNIX_DGRAM, bytes(216)), False),
        (block(PROXY, UDP4, TWELVE), False),
        (block(PROXY, UDP6, bytes(36)), False),
    ],
)
def test_no_client_is_named(data, is_local):
    for pieces in ([data + BEHIND], one_by_one(data + BEHIND)):
        assert read(*pieces) == (Header(len(data), None, None, is_local), BEHIND)


@pytest.mark.parametrize("data", [b"", b"P", b"PROXY", b"PROXY ", v1("1.2.3.4", "1.2.3.4")[:-1], SIGNATURE, b"\r\n\r"])
def test_one_that_is_not_whole_is_waited_for(data):
    assert read(data) is None


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"PROXX", b"proxy TCP4", b"PROXYTCP4", b"\r\n\r\n\r", b"\x16\x03\x01", b"\0", b" "],
)
def test_something_else(data):
    with pytest.raises(NoHeader):
        HeaderReader().feed(data)


MALFORMED_LINES = [
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 51000\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443 \r\n",
    b"PROXY TCP4  203.0.113.7 192.0.2.1 51000 443\r\n",
    b"PROXY TCP4\t203.0.113.7 192.0.2.1 51000 443\r\n",
    b"PROXY tcp4 203.0.113.7 192.0.2.1 51000 443\r\n",
    b"PROXY TCP5 203.0.113.7 192.0.2.1 51000 443\r\n",
    b"PROXY UDP4 203.0.113.7 192.0.2.1 51000 443\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN a\rb\r\n",
    b"PROXY / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\r\r\n",
]
BAD_ADDRESSES = [
    b"PROXY TCP4 2001:db8::7 2001:db8::1 51000 443\r\n",
    b"PROXY TCP6 203.0.113.7 192.0.2.1 51000 443\r\n",
    b"PROXY TCP4 203.0.113.7 2001:db8::1 51000 443\r\n",
    b"PROXY TCP4 203.0.113.07 192.0.2.1 51000 443\r\n",
    b"PROXY TCP4 203.0.113.256 192.0.2.1 51000 443\r\n",
    b"PROXY TCP4 203.0.113 192.0.2.1 51000 443\r\n",
    b"PROXY TCP6 2001::db8::7 2001:db8::1 51000 443\r\n",
    b"PROXY TCP6 2001:db8:::7 2001:db8::1 51000 443\r\n",
    b"PROXY TCP6 12345::7 2001:db8::1 51000 443\r\n",
]
BAD_PORTS = [
    b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 99999\r\n",
]
NO_PORTS = [
    b"PROXY TCP4 203.0.113.7 192.0.2.1 051000 443\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 443\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 100000 443\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 5x 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::1 51000 443\r\n",
]
TOO_LONG_LINES = [
    b"PROXY UNKNOWN" + b" " * (MAX_LINE_BYTES - 14) + b"\r\n",
    b"PROXY " + b"\0" * 200,
    b"PROXY TCP6 " + b":" * 200,
]
GOOD = v2("203.0.113.7", "192.0.2.1")
ZEROED = v2("203.0.113.7", "192.0.2.1", vectors=vector(CRC32C, bytes(4)))
TWICE = with_checksum(with_checksum(GOOD))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        *((line, "a malformed PROXY header") for line in MALFORMED_LINES[:-2] + NO_PORTS),
        (MALFORMED_LINES[-2], "a PROXY header that does not end with CRLF"),
        (MALFORMED_LINES[-1], "a malformed PROXY header"),
        *((line, f"a PROXY header with a malformed IPv{chr(line[9])} address") for line in BAD_ADDRESSES),
        *((line, "a PROXY header with a port above 65535") for line in BAD_PORTS),
        *((line, "a PROXY header without CRLF within 107 bytes") for line in TOO_LONG_LINES),
        (SIGNATURE + b"\x11\x11\0\x0c" + TWELVE, "a PROXY header of version 1"),
        (SIGNATURE + b"\x31\x11\0\x0c" + TWELVE, "a PROXY header of version 3"),
        (block(0x22, TCP4, TWELVE), "a PROXY header with the unknown command 2"),
        (block(0x2F, TCP4, TWELVE), "a PROXY header with the unknown command 15"),
        (block(PROXY, 0x41, TWELVE), "a PROXY header with the unknown family or transport 0x41"),
        (block(PROXY, 0x13, TWELVE), "a PROXY header with the unknown family or transport 0x13"),
        (block(LOCAL, 0xFF), "a PROXY header with the unknown family or transport 0xff"),
        (block(PROXY, TCP4, bytes(11)), "a PROXY header too short for its addresses"),
        (block(PROXY, TCP6, bytes(35)), "a PROXY header too short for its addresses"),
        (block(PROXY, UNIX_STREAM, bytes(215)), "a PROXY header too short for its addresses"),
        (block(PROXY, TCP4, length=MAX_HEADER_BYTES - 15), "a PROXY header over 4096 bytes"),
        (block(LOCAL, UNSPEC, length=65535), "a PROXY header over 4096 bytes"),
        (block(PROXY, TCP4, TWELVE, b"\x04"), "a PROXY header whose vectors do not fit its length"),
        (block(PROXY, TCP4, TWELVE, b"\x04\0"), "a PROXY header whose vectors do not fit its length"),
        (block(PROXY, TCP4, TWELVE, b"\x04\0\1"), "a PROXY header whose vectors do not fit its length"),
        (block(PROXY, TCP4, TWELVE, b"\x04\xff\xff" + bytes(9)), "a PROXY header whose vectors do not fit its length"),
        (ZEROED, "a PROXY header whose checksum is wrong"),
        (v2("203.0.113.7", "192.0.2.1", vectors=vector(CRC32C, bytes(3))), "a PROXY header whose checksum is wrong"),
        (v2("203.0.113.7", "192.0.2.1", vectors=vector(CRC32C, bytes(5))), "a PROXY header whose checksum is wrong"),
        (TWICE, "a PROXY header whose checksum is wrong"),
        (block(LOCAL, UNSPEC, vectors=vector(CRC32C, bytes(4))), "a PROXY header whose checksum is wrong"),
    ],
)
def test_malformed(data, reason):
    assert read(data) == read(*one_by_one(data)) == reason
    assert read(data + BEHIND) == reason


@pytest.mark.parametrize("at", [12, 16, 20, 27, 31, 34])
def test_a_checksum_covers_every_byte(at):
    header = bytearray(with_checksum(GOOD))
    assert isinstance(read(bytes(header)), tuple)
    header[at] ^= 1
    assert read(bytes(header)) == "a PROXY header whose checksum is wrong"


def test_the_largest():
    padding = vector(NOOP, bytes(MAX_HEADER_BYTES - len(GOOD) - 3))
    data = v2("203.0.113.7", "192.0.2.1", vectors=padding)
    assert len(data) == MAX_HEADER_BYTES
    assert read(data + BEHIND) == (Header(MAX_HEADER_BYTES, SOURCE, DESTINATION, False), BEHIND)


def test_the_checksum_of_rfc_9260():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


@given(st.binary(max_size=100))
def test_any_checksum(data):
    assert crc32c(data) == bitwise_crc32c(data)


# --- written ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "line"),
    [
        (SOURCE, DESTINATION, b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\r\n"),
        (SOURCE6, DESTINATION6, b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n"),
        (("fe80::1%eth0", 1), ("fe80::2%2", 2), b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"),
        (SOURCE, None, b"PROXY TCP4 203.0.113.7 0.0.0.0 51000 0\r\n"),
        (SOURCE6, None, b"PROXY TCP6 2001:db8::7 :: 51000 0\r\n"),
        (None, DESTINATION, b"PROXY UNKNOWN\r\n"),
        (None, None, b"PROXY UNKNOWN\r\n"),
        (SOURCE6, DESTINATION, b"PROXY TCP6 2001:db8::7 0000:0000:0000:0000:0000:ffff:c000:0201 51000 443\r\n"),
        (SOURCE, DESTINATION6, b"PROXY TCP6 0000:0000:0000:0000:0000:ffff:cb00:7107 2001:db8::1 51000 443\r\n"),
    ],
)
def test_written(source, destination, line):
    assert header_bytes("v1", source, destination) == line
    assert read(header_bytes("v2", source, destination)) == (
        (Header(16, None, None, False), b"")
        if source is None
        else (Header(28 if b"TCP4" in line else 52, *_without_zones(source, destination), False), b"")
    )


def _without_zones(source, destination):
    destination = destination or ("::" if ":" in source[0] else "0.0.0.0", 0)
    return [(host.partition("%")[0], port) for host, port in (source, destination)]


def test_an_unknown_client_is_not_the_gateway_itself():
    assert header_bytes("v2", None, None) == SIGNATURE + b"\x21\x00\0\0"


def test_its_own_connections():
    assert own_header_bytes("v2", SOURCE, DESTINATION) == SIGNATURE + b"\x20\x00\0\0"
    assert own_header_bytes("v1", SOURCE, DESTINATION) == b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\r\n"
    assert own_header_bytes("v1", None, None) == b"PROXY UNKNOWN\r\n"


@given(st.data(), st.sampled_from(["v1", "v2"]))
def test_what_is_written_is_read(data, version):
    source = data.draw(st.tuples(IPV4 | IPV6, PORTS))
    destination = data.draw(st.tuples(IPV4 | IPV6, PORTS))
    written = header_bytes(version, source, destination)
    assert len(written) <= (MAX_LINE_BYTES if version == "v1" else 52)
    if (":" in source[0]) == (":" in destination[0]):
        assert written == (v1 if version == "v1" else v2)(source[0], destination[0], source[1], destination[1])
    behind = data.draw(st.binary(max_size=20))
    made = read(*data.draw(chunkings(written + behind)))
    assert made == (Header(len(written), source, destination, False), behind)


@given(st.data())
def test_any_length_and_family(data):
    """Bytes of which only the beginning is right: a header, a refusal, or a wait for more."""
    command, family = data.draw(st.integers(0, 255)), data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, 65535) | st.integers(0, 60))
    body = data.draw(st.binary(max_size=80))
    whole = SIGNATURE + bytes((command, family)) + struct.pack("!H", length) + body
    made = read(whole)
    assert read(*data.draw(chunkings(whole))) == made
    if isinstance(made, tuple):
        assert (command, made[0].size) in ((LOCAL, 16 + length), (PROXY, 16 + length))
        assert made[1] == body[length:]
