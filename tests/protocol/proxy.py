"""PROXY headers made independently of the gateway's code."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from hypothesis import strategies as st

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UDP6, UNIX_STREAM, UNIX_DGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
CRC32C, NOOP, SSL = 0x03, 0x04, 0x20

PORTS = st.integers(0, 65535)
IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None).map(str)


def v1(source, destination, source_port=51000, destination_port=443):
    """A line of version 1."""
    kind = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {kind} {source} {destination} {source_port} {destination_port}\r\n".encode()


def block(command=PROXY, family=TCP4, addresses=b"", vectors=b"", length=None):
    """A header of version 2, of any content. :param length: what its length field says, if not the truth"""
    body = addresses + vectors
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(body) if length is None else length) + body


def v2(source, destination, source_port=51000, destination_port=443, vectors=b""):
    """A header of version 2 for TCP."""
    kind, family = (TCP6, socket.AF_INET6) if ":" in source else (TCP4, socket.AF_INET)
    addresses = b"".join(socket.inet_pton(family, each) for each in (source, destination))
    return block(PROXY, kind, addresses + struct.pack("!HH", source_port, destination_port), vectors)


def vector(kind, value):
    """A type-length-value vector."""
    return struct.pack("!BH", kind, len(value)) + value


def bitwise_crc32c(data):
    """CRC-32C, one bit at a time."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


def with_checksum(header):
    """A header of version 2 with a checksum as its last vector."""
    (length,) = struct.unpack_from("!H", header, 14)
    whole = header[:14] + struct.pack("!H", length + 7) + header[16:] + vector(CRC32C, bytes(4))
    return whole[:-4] + struct.pack("!I", bitwise_crc32c(whole))


def plain(host):
    """The text that an address has in the log."""
    address = ip_address(host)
    return str(getattr(address, "ipv4_mapped", None) or address)
