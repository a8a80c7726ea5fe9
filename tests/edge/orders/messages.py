"""Requests and answers as peers see them: what was asked, what was answered, and what broke off."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

HEAD_END = b"\r\n\r\n"


class Message(NamedTuple):
    """A request or an answer."""

    line: bytes
    """its first line"""
    fields: dict[bytes, bytes]
    """by name in lower case"""
    body: bytes
    """what it carries, without chunked framing"""
    framed: bytes
    """as it came"""
    whole: bool

    @property
    def path(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def status(self) -> int:
        return int(self.line.split(b" ")[1])


def request(path: bytes, method: bytes = b"GET", fields: bytes = b"", body: bytes = b"", host: bytes = b"a") -> bytes:
    """A request of HTTP/1.1."""
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n%b" % (method, path, host, fields, body)


def post(path: bytes, body: bytes) -> bytes:
    """A request with a body of known length."""
    return request(path, b"POST", b"Content-Length: %d\r\n" % len(body), body)


def chunked(*pieces: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def post_chunked(path: bytes, *pieces: bytes) -> bytes:
    """A request whose body is in chunks."""
    return request(path, b"POST", b"Transfer-Encoding: chunked\r\n", chunked(*pieces))


def answer(path: bytes, fields: bytes = b"") -> bytes:
    """The answer to a request for a path, which can be told from all others."""
    body = b"answer to " + path
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


@lru_cache(256)
def messages(data: bytes, bodyless: bool = False) -> tuple[Message, ...]:
    """The requests or answers in a stream. The last one need not be whole. Plays look after each step.

    :param bodyless: whether messages without a length have no body, as requests have none; else it ends with the data
    """
    found = []
    while data:
        head, end, rest = data.partition(HEAD_END)
        line, *lines = head.split(b"\r\n")
        if not end:
            found.append(Message(line, {}, b"", data, False))
            break
        fields = {name.lower(): value.strip() for name, _, value in (text.partition(b":") for text in lines)}
        interim = line.startswith(b"HTTP/1.1 1")
        if b"transfer-encoding" in fields:
            body, size, whole = _dechunked(rest)
        elif b"content-length" in fields:
            size = int(fields[b"content-length"])
            whole = len(rest) >= size
            size = min(size, len(rest))
            body = rest[:size]
        elif bodyless or interim:
            body, size, whole = b"", 0, True
        else:
            body, size, whole = rest, len(rest), False
        size += len(head) + len(end)
        found.append(Message(line, fields, body, data[:size], whole))
        data = data[size:]
    return tuple(found)


def requests_in(data: bytes) -> tuple[Message, ...]:
    """The requests that a backend has got."""
    return messages(data, bodyless=True)


def _dechunked(data: bytes) -> tuple[bytes, int, bool]:
    """:returns: what chunks carry, how many bytes they are, whether the last one is there"""
    body, at = b"", 0
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return body, len(data), False
        size = int(data[at:line], 16)
        body += data[line + 2 : line + 2 + size]
        end = line + 2 + size + 2
        if end > len(data):
            return body, len(data), False
        at = end
        if not size:
            return body, at, True
