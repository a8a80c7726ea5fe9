"""What was recorded of a row at one proxy.

*Exact*: byte for byte, for ours. *Parts*: what is compared with a peer, without differences of
style:

- the order of fields, and the case of their names (HAProxy writes all in lower case, nginx puts ``Host`` first)
- ``keep-alive`` and ``close`` in ``Connection``: connections are compared anyway
- ``Server`` and ``Date`` of nginx, and what ours adds to a request
- the boundaries of chunks (nginx and HAProxy make their own), as long as the body is chunked
- the bodies of errors of a proxy's own, and whether a message that is cut is cut by FIN or reset, as long as it can be
  seen to be cut
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tests.peers.differential.rows import CUT, OPEN
from tests.support.plain import Message
from tests.support.raw import Head

OURS, NGINX, HAPROXY = "ours", "nginx", "haproxy"

_ADDED: Final = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "CDN-Loop", "X-Request-Id")
"""The fields that ours appends to a request, in this order."""

_OWN_TYPES: Final = {OURS: "text/plain; charset=utf-8", NGINX: "text/html", HAPROXY: "text/html"}
"""Content-Type of each proxy's own answers. No backend in the table uses these."""


@dataclass
class Sight:
    """What one proxy did with a row."""

    proxy: str
    requests: list[Message] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)
    end: str = ""

    # --- to the byte --------------------------------------------------------------------------------------------------

    def exact_requests(self) -> tuple[bytes, ...]:
        """What the backend got, without the fields that ours appends."""
        return tuple(_without_added(message) + message.framed + _cut_mark(message) for message in self.requests)

    def exact_answers(self) -> tuple[bytes | int, ...]:
        """What the client got: the status of each of the proxy's own answers, the bytes of all others."""
        found: list[bytes | int] = []
        for message in self.answers:
            interim = b"".join(head.raw for head in message.interim)
            if self._is_own(message):
                found += [interim, message.status] if interim else [message.status]
            elif message.head:
                found.append(interim + message.head.raw + message.framed + _cut_mark(message))
            elif interim:
                found.append(interim + CUT)
        return tuple(found)

    def _is_own(self, message: Message) -> bool:
        return message.head is not None and message.head.values("content-type") == [_OWN_TYPES[self.proxy]]

    # --- in a form that can be compared -------------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, object]]:
        """What is compared of each message."""
        seen: dict[str, dict[str, object]] = {"connection": {"": self.end}}
        for number, message in enumerate(self.requests):
            assert message.head is not None
            head = Head(_without_added(message)) if self.proxy == OURS else message.head
            seen[f"request {number}"] = _parts(head, message)
        for number, message in enumerate(self.answers):
            if message.head is None and not message.interim:
                continue
            part = seen[f"answer {number}"] = {"interim": tuple(head.status for head in message.interim)}
            if message.head is None:
                part["line"] = "none"
            elif self._is_own(message):
                part["line"] = f"{message.status} of its own"
            else:
                part |= _parts(message.head, message)
        return seen


def differences(ours: Sight, peer: Sight) -> list[str]:
    """Where a peer differs, with what each did."""
    found = []
    one, other = ours.parts(), peer.parts()
    for which in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(which, {}), other.get(which, {})
        if mine.keys() != theirs.keys():  # there is none, or one that says little
            found.append(f"{which}: {_summary(theirs)}, ours {_summary(mine)}")
            continue
        found += [
            f"{which}: {key} {theirs[key]!r}, ours {value!r}" for key, value in mine.items() if value != theirs[key]
        ]
    return found


def _summary(part: dict[str, object]) -> object:
    return part.get("line", "none")


def _parts(head: Head, message: Message) -> dict[str, object]:
    chunked = bool(head.values("transfer-encoding"))
    content = b"" if chunked else message.framed
    return {
        "line": head.first_line.rstrip(),
        "fields": tuple(sorted(_fields(head))),
        "body": message.body if chunked else content,
        "extensions": any(b";" in line for line in _size_lines(message.framed)) if chunked else False,
        "trailers": _trailers(message.framed) if chunked and not message.cut else b"",
        "cut": message.cut if message.cut == OPEN else bool(message.cut),
    }


def _fields(head: Head) -> list[tuple[str, str]]:
    found = []
    for name, value in head.fields:
        name = name.lower()
        if name == "connection":
            options = [option.strip().lower() for option in value.split(",")]
            value = ", ".join(option for option in options if option not in ("keep-alive", "close"))
            if not value:
                continue
        elif name in ("server", "date"):
            continue
        found.append((name, value.strip()))
    return found


def _without_added(message: Message) -> bytes:
    """The head of a request without the fields that ours appends."""
    assert message.head is not None
    lines = message.head.raw.split(b"\r\n")
    added = lines[-2 - len(_ADDED) : -2]
    if [line.partition(b":")[0].decode("latin-1") for line in added] == list(_ADDED):
        del lines[-2 - len(_ADDED) : -2]
    return b"\r\n".join(lines)


def _cut_mark(message: Message) -> bytes:
    return CUT if message.cut else b""


def _size_lines(framed: bytes) -> list[bytes]:
    """The lines before chunks."""
    lines = []
    while True:
        line, end, framed = framed.partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            return lines
        lines.append(line)
        if not end or size == 0:
            return lines
        framed = framed[size + 2 :]


def _trailers(framed: bytes) -> bytes:
    """What is behind the last chunk."""
    size = len(framed)
    for line in _size_lines(framed):
        at = framed.index(line, 0)
        size = int(line.partition(b";")[0], 16)
        framed = framed[at + len(line) + 2 + (size + 2 if size else 0) :]
    return framed.removesuffix(b"\r\n").lower()  # HAProxy writes names so
