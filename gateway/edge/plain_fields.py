"""Header fields on their way through aiohttp, byte for byte.

aiohttp holds fields as text. Bytes that are not UTF-8 (ISO 8859-1 in ``Content-Disposition``, say) are kept in it by
``surrogateescape``; its own writer would leave them out, so it is given another.
"""

from __future__ import annotations

from aiohttp import http_writer
from multidict import CIMultiDict


def decoded(fields: list[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    """Fields as aiohttp takes them."""
    return CIMultiDict((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in fields)


def encoded(status_line: str, headers: CIMultiDict[str]) -> bytes:
    """A head as it goes over the wire. :raises ValueError: something in it would end a line"""
    lines = [status_line, *(f"{name}: {value}" for name, value in headers.items())]
    if any("\r" in line or "\n" in line or "\0" in line for line in lines):
        raise ValueError("a header field holds CR, LF or NUL")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def write_fields_as_they_came() -> None:
    """Have aiohttp write heads with :func:`encoded`, in this process."""
    http_writer._serialize_headers = encoded
