"""Request targets: the path that routes are matched against (RFC 9112 section 3.2, RFC 3986 section 6.2.2)."""

from __future__ import annotations

import re

from gateway.protocol.http import BadHead

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)")


def split_target(target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """Split a target into authority (None in origin form), path and query (with its ``?``).

    :raises BadHead: with status 400, where it is in none of the forms that a reverse proxy serves
    """
    if b"#" in target:
        # Never part of a request (RFC 9112 section 3.2); a backend that cuts it off would see another path than routes.
        raise BadHead(400, "a fragment in the request target")
    authority = None
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            if target == b"*":
                return None, b"*", b""
            raise BadHead(400, "malformed request target")
        authority = absolute[1]
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    path, mark, query = target.partition(b"?")
    return authority, path, mark + query


def normal_path(path: bytes) -> str:
    """The one spelling of a path: dot segments gone, unreserved characters decoded, other escapes in upper case.

    Routes match against this; the backend gets the target as it came.

    :raises BadHead: with status 400, where an escape is not two hexadecimal digits
    """
    if b"%" in path:
        path = _ESCAPE.sub(_unescape, path)
    if b"/." in path:
        path = _without_dot_segments(path)
    return path.decode("latin-1")


def _unescape(escape: re.Match[bytes]) -> bytes:
    digits = escape[1]
    if digits is None:
        raise BadHead(400, "malformed percent-encoding in the request target")
    value = int(digits, 16)
    return bytes((value,)) if value in _UNRESERVED else b"%" + digits.upper()


def _without_dot_segments(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4, for a path that begins with a slash."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)
