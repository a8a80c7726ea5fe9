"""One row of the table, and shorthand for writing rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.support.plain import OK, Do, Script

CUT: Final = b"<cut>"
"""Marks a message whose connection ended within it; if only the end of the connection ends a body, by a reset."""

OPEN: Final = "open"
"""Marks a message that has not ended."""

KEPT: Final = "kept"
CLOSED: Final = "closed"
SILENT: Final = "silent"
"""What happens to the client's connection: it serves another request; it is closed; neither."""

Steps = bytes | tuple[bytes | float | Do, ...]


@dataclass(frozen=True)
class Row:
    """Input, the required result, and why a peer differs."""

    name: str
    sent: Steps
    """what the client does: bytes, pauses in seconds, ``Do.CLOSE`` for a FIN, ``Do.RESET``"""
    seen: tuple[bytes, ...] | None = None
    """what the backend must get, without the fields that ours adds; None for exactly what was sent"""
    got: tuple[bytes | int, ...] = (OK,)
    """answers that the client must get; a number stands for the proxy's own answer with this status"""
    end: str = KEPT
    """what must happen to the client's connection"""
    scripts: tuple[Script, ...] = ((OK,),)
    """what the backend does for each request"""
    nginx: str = ""
    """why nginx differs; empty if it does not"""
    haproxy: str = ""
    rests: float = 0.0
    """seconds before another request is sent on the client's connection"""
    methods: tuple[str, ...] | None = None
    """methods of the requests that a proxy may see in ``sent``: one answer is awaited for each; None for one request"""

    @property
    def expected(self) -> tuple[bytes, ...]:
        """What the backend must get."""
        if self.seen is not None:
            return self.seen
        assert isinstance(self.sent, bytes)
        return (self.sent,)

    @property
    def awaited(self) -> tuple[str, ...]:
        """Methods of the requests whose answers are awaited."""
        if self.methods is not None:
            return self.methods
        first = self.sent if isinstance(self.sent, bytes) else next(s for s in self.sent if isinstance(s, bytes))
        return (first.lstrip(b"\r\n").partition(b" ")[0].decode("latin-1"),)


def req(line: str, *fields: str, body: bytes = b"", host: str | None = "x") -> bytes:
    """A request. :param line: method, target, and the version unless it is HTTP/1.1"""
    if not line.endswith(("HTTP/1.1", "HTTP/1.0")):
        line += " HTTP/1.1"
    lines = [line, *([] if host is None else [f"Host: {host}"]), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def ans(status: str, *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """An answer."""
    return "\r\n".join([f"HTTP/{version} {status}", *fields, "", ""]).encode("latin-1") + body


def ok(*fields: str) -> bytes:
    """An answer with a body of two bytes, and these fields before its Content-Length."""
    return ans("200 OK", *fields, "Content-Length: 2", body=b"ok")


OK_CLOSED: Final = ans("200 OK", "Content-Length: 2", "Connection: close", body=b"ok")
OK_STAYS: Final = ans("200 OK", "Content-Length: 2", "Connection: keep-alive", body=b"ok")
"""``OK`` for a client of HTTP/1.0 that asks for keep-alive."""


def passes(name: str, sent: bytes, *seen: bytes, nginx: str = "", haproxy: str = "") -> Row:
    """A request that the backend answers. :param seen: what it gets, if not exactly what was sent"""
    return Row(name, sent, seen or None, nginx=nginx, haproxy=haproxy)


def refused(name: str, sent: bytes, status: int = 400, nginx: str = "", haproxy: str = "", end: str = CLOSED) -> Row:
    """A request that the proxy refuses."""
    return Row(name, sent, (), (status,), end, nginx=nginx, haproxy=haproxy)


def answered(
    name: str,
    answer: Script | bytes,
    *got: bytes | int,
    sent: bytes | None = None,
    seen: tuple[bytes, ...] | None = None,
    end: str = KEPT,
    rests: float = 0.0,
    nginx: str = "",
    haproxy: str = "",
) -> Row:
    """An answer.

    :param got: what the client gets, if not exactly what was sent
    :param sent: the request, if not a plain GET
    """
    script: Script = (answer,) if isinstance(answer, bytes) else answer
    if not got:
        assert isinstance(answer, bytes)
        got = (answer,)
    return Row(name, sent or req("GET /"), seen, got, end, (script,), nginx, haproxy, rests)
