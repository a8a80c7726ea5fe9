"""The PROXY protocol, versions 1 and 2: the header with which a proxy says on whose behalf it connects.

The header is the first thing on a connection, before TLS and HTTP (HAProxy, doc/proxy-protocol.txt; section numbers
below are of that document). A header is read strictly: what the specification does not allow ends the connection.
"""

from __future__ import annotations

import re
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple

Version = Literal["v1", "v2"]
Endpoint = tuple[str, int]
"""IP address and port."""

MAX_LINE_BYTES: Final = 107
"""Of a header of version 1, CRLF included (section 2.1)."""

MAX_HEADER_BYTES: Final = 4096
"""Of a header of version 2. Its length field allows 65,551 bytes; nginx draws the line here, too."""

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_LINE_START: Final = b"PROXY "
_FIXED_BYTES: Final = 16
"""Of a header of version 2: signature, version and command, family and transport, length."""

_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_STREAM, _DGRAM = 1, 2
_ADDRESS_BYTES: Final = (0, 12, 36, 216)
"""By family: two addresses, and two ports where the family has ports."""

_CRC32C = 0x03
_PORT = rb"(0|[1-9][0-9]{0,4})"
_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b" % (_PORT, _PORT))
_UNKNOWN_LINE = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")


class BadHeader(Exception):
    """A connection does not begin with a valid header. ``str()`` is the reason."""


class NoHeader(BadHeader):
    """A connection begins with something other than a header."""


class Header(NamedTuple):
    """What a header says."""

    size: int
    """bytes of the header; what follows them belongs to the next protocol"""
    source: Endpoint | None
    """the client; None if the header names none: LOCAL, UNKNOWN, UNSPEC, a unix socket, datagrams"""
    destination: Endpoint | None
    """where the client connected to; None along with :attr:`source`"""
    is_local: bool
    """whether the proxy speaks for itself (a health check): the connection's own addresses apply"""


# --- reading ----------------------------------------------------------------------------------------------------------


class HeaderReader:
    """Reads one header out of bytes that come in any chunking."""

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received = b""

    def feed(self, data: bytes) -> Header | None:
        """Take the next bytes of the connection; return the header once it is whole.

        Bytes behind the header stay in ``received``, from ``header.size`` on.

        :raises NoHeader: the connection begins with something else
        :raises BadHeader: the header is malformed or too large, or its checksum is wrong
        """
        received = self.received = self.received + data if self.received else data
        if received.startswith(_LINE_START):
            return _read_line(received)
        if received.startswith(SIGNATURE):
            return _read_block(received)
        if not _LINE_START.startswith(received) and not SIGNATURE.startswith(received):
            raise NoHeader("no PROXY header")
        return None


def _read_line(received: bytes) -> Header | None:
    """A header of version 1 (section 2.1)."""
    end = received.find(b"\n", 0, MAX_LINE_BYTES)
    if end < 0:
        if len(received) >= MAX_LINE_BYTES:
            raise BadHeader(f"a PROXY header without CRLF within {MAX_LINE_BYTES} bytes")
        return None
    line = received[: end - 1]
    if received[end - 1 : end] != b"\r":
        raise BadHeader("a PROXY header that does not end with CRLF")
    size = end + 1
    if _UNKNOWN_LINE.fullmatch(line):
        return Header(size, None, None, False)
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadHeader("a malformed PROXY header")
    family, source, destination, source_port, destination_port = match.groups()
    address = IPv4Address if family == b"4" else IPv6Address
    try:
        source_host = _host(address(source.decode("ascii")))
        destination_host = _host(address(destination.decode("ascii")))
    except ValueError:
        raise BadHeader(f"a PROXY header with a malformed IPv{family.decode()} address") from None
    ports = int(source_port), int(destination_port)
    if max(ports) > 65535:
        raise BadHeader("a PROXY header with a port above 65535")
    return Header(size, (source_host, ports[0]), (destination_host, ports[1]), False)


def _read_block(received: bytes) -> Header | None:
    """A header of version 2 (section 2.2)."""
    if len(received) < _FIXED_BYTES:
        return None
    version, command = divmod(received[12], 16)
    family, transport = divmod(received[13], 16)
    length = int.from_bytes(received[14:16], "big")
    size = _FIXED_BYTES + length
    if version != 2:
        raise BadHeader(f"a PROXY header of version {version}")
    if command > _PROXY:
        raise BadHeader(f"a PROXY header with the unknown command {command}")
    if family > _UNIX or transport > _DGRAM:
        raise BadHeader(f"a PROXY header with the unknown family or transport 0x{received[13]:02x}")
    if size > MAX_HEADER_BYTES:
        raise BadHeader(f"a PROXY header over {MAX_HEADER_BYTES} bytes")
    is_local = command == _LOCAL
    if not is_local and length < _ADDRESS_BYTES[family]:
        raise BadHeader("a PROXY header too short for its addresses")
    if len(received) < size:
        return None
    header = received[:size]
    # What follows a LOCAL command or an unspecified family is to be ignored: it need not be vectors.
    _check_vectors(header, _FIXED_BYTES + _ADDRESS_BYTES[family], lenient=is_local or family == _UNSPEC)
    if is_local or transport != _STREAM or family not in (_INET, _INET6):
        return Header(size, None, None, is_local)
    wide = 4 if family == _INET else 16
    address = IPv4Address if family == _INET else IPv6Address
    at = _FIXED_BYTES
    source_host = _host(address(header[at : at + wide]))
    destination_host = _host(address(header[at + wide : at + 2 * wide]))
    at += 2 * wide
    source_port = int.from_bytes(header[at : at + 2], "big")
    destination_port = int.from_bytes(header[at + 2 : at + 4], "big")
    return Header(size, (source_host, source_port), (destination_host, destination_port), False)


def _host(address: IPv4Address | IPv6Address) -> str:
    """The canonical text of an address; IPv4 in IPv6 as IPv4."""
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or address)
    return str(address)


def _check_vectors(header: bytes, at: int, lenient: bool) -> None:
    """Check the type-length-value vectors behind the addresses (section 2.2), and the checksum if there is one.

    :param at: where they begin
    :param lenient: whether bytes that are no vectors are ignored
    :raises BadHeader: they are malformed, or the checksum is wrong
    """
    checksums = []
    while at < len(header):
        value = at + 3
        end = value + int.from_bytes(header[at + 1 : value], "big")
        if value > len(header) or end > len(header):
            if lenient:
                return
            raise BadHeader("a PROXY header whose vectors do not fit its length")
        if header[at] == _CRC32C:
            checksums.append((value, end))
        at = end
    for value, end in checksums:
        zeroed = header[:value] + bytes(end - value) + header[end:]
        if len(checksums) > 1 or header[value:end] != crc32c(zeroed).to_bytes(4, "big"):
            raise BadHeader("a PROXY header whose checksum is wrong")


def crc32c(data: bytes) -> int:
    """The checksum of a header (RFC 9260 appendix A)."""
    table = _crc32c_table()
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = checksum >> 8 ^ table[(checksum ^ byte) & 0xFF]
    return checksum ^ 0xFFFFFFFF


@cache
def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


# --- writing ----------------------------------------------------------------------------------------------------------


def header_bytes(version: Version, source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """A header for a connection on a client's behalf.

    If one address is IPv4 and the other IPv6, the IPv4 one is written as IPv6, because a header has one family.

    :param source: the client; None if it has no IP address (a unix socket) or is unknown
    :param destination: where it connected to; None if that is unknown
    """
    if source is None:
        # Not LOCAL: the connection is relayed, and LOCAL would say that the gateway itself is the client.
        return b"PROXY UNKNOWN\r\n" if version == "v1" else _block(_PROXY, _UNSPEC, b"")
    addresses = [_address(source[0])]
    addresses.append(_address(destination[0]) if destination else type(addresses[0])(0))
    ports = source[1], destination[1] if destination else 0
    if addresses[0].version != addresses[1].version:
        addresses = [_as_ipv6(address) for address in addresses]
    is_ipv4 = addresses[0].version == 4
    if version == "v1":
        texts = " ".join(map(_written, addresses))
        return b"PROXY TCP%b %b %d %d\r\n" % (b"4" if is_ipv4 else b"6", texts.encode("ascii"), *ports)
    packed = b"".join(address.packed for address in addresses)
    return _block(_PROXY, _INET if is_ipv4 else _INET6, packed + b"".join(port.to_bytes(2, "big") for port in ports))


def own_header_bytes(version: Version, source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """A header for a connection that the gateway makes on its own behalf, such as a check.

    :param source: the connection's own address; None if it has none
    :param destination: the backend's address
    """
    if version == "v2":
        return _block(_LOCAL, _UNSPEC, b"")
    # Some servers refuse UNKNOWN, so section 2.1 recommends a line with the connection's real addresses.
    return header_bytes("v1", source, destination)


def _block(command: int, family: int, addresses: bytes) -> bytes:
    transport = _UNSPEC if family == _UNSPEC else _STREAM
    start = bytes((2 << 4 | command, family << 4 | transport))
    return SIGNATURE + start + len(addresses).to_bytes(2, "big") + addresses


def _address(host: str) -> IPv4Address | IPv6Address:
    host = host.partition("%")[0]
    return IPv6Address(host) if ":" in host else IPv4Address(host)


def _as_ipv6(address: IPv4Address | IPv6Address) -> IPv6Address:
    return IPv6Address(0xFFFF << 32 | int(address)) if isinstance(address, IPv4Address) else address


def _written(address: IPv4Address | IPv6Address) -> str:
    # Python versions differ in how they write IPv4 in IPv6, and the specification knows groups of digits only.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.exploded
    return str(address)
