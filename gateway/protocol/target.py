"""Request targets: the authority they name, the path that routes match, and the form that a backend is sent.

RFC 9112 section 3.2 has the forms of a target, RFC 3986 section 6.2.2 says when two spellings are one path. What two
servers could resolve to different paths is refused: a rule on the path would else hold for one of them only.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.protocol.heads import BadHead

_ABSOLUTE = re.compile(rb"(?i:(https?))://([^/?#]*)")
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::([0-9]*))?\Z")
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
_OPTIONS = b"OPTIONS"


class TargetParts(NamedTuple):
    """What a target says."""

    scheme: bytes
    """in lower case; empty unless the target is in absolute form"""
    authority: bytes | None
    """as it came, of the absolute form; None in the other forms"""
    path: bytes
    """as it came, or ``*``"""
    query: bytes
    """with its ``?``"""


def split_target(target: bytes, method: bytes) -> TargetParts:
    """Return the parts of a target.

    :param method: decides which forms are allowed
    :raises BadHead: with status 400, for a target in none of the forms that a reverse proxy serves
    """
    if target[:1] == b"/" and method != b"CONNECT" and b"#" not in target:  # as nearly all are
        path, mark, query = target.partition(b"?")
        return TargetParts(b"", None, path, mark + query)
    scheme, authority, rest = _split(target, method)
    if not rest.startswith((b"/", b"*")):
        rest = b"/" + rest
    path, mark, query = rest.partition(b"?")
    return TargetParts(scheme, authority, path, mark + query)


def origin_form(target: bytes, method: bytes) -> bytes:
    """Return a target as an origin server is sent it: path and query, byte for byte as they came, or ``*``.

    RFC 9112 sections 3.2.1 and 3.2.4.

    :raises BadHead: as :func:`split_target`
    """
    if target[:1] == b"/" and method != b"CONNECT" and b"#" not in target:
        return target
    _, _, rest = _split(target, method)
    return rest if rest.startswith((b"/", b"*")) else b"/" + rest


def _split(target: bytes, method: bytes) -> tuple[bytes, bytes | None, bytes]:
    """Return scheme, authority and what is behind them.

    :raises BadHead: as :func:`split_target`
    """
    if method == b"CONNECT":
        # RFC 9110 section 9.3.6: it asks a forward proxy for a tunnel to anywhere.
        raise BadHead(400, "CONNECT is for forward proxies; this is a reverse proxy")
    if b"#" in target:
        # Never part of a request (RFC 9112 section 3.2); a backend that cuts it off would see another path than routes.
        raise BadHead(400, "a fragment in the request target")
    if target.startswith(b"/"):
        return b"", None, target
    if target == b"*":
        if method != _OPTIONS:
            raise BadHead(400, "the request target * is for OPTIONS only")
        return b"", None, target
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise BadHead(400, "malformed request target: neither a path nor an http URL")
    authority = absolute[2]
    if b"@" in authority:
        # RFC 9110 section 4.2.4: it serves to pass one host off as another.
        raise BadHead(400, "user information in the request target")
    if not _AUTHORITY.match(authority):
        raise BadHead(400, "malformed host in the request target")
    rest = target[absolute.end() :]
    if not rest and method == _OPTIONS:
        rest = b"*"  # RFC 9112 section 3.2.4
    return absolute[1].lower(), authority, rest


def same_authority(scheme: bytes, one: bytes, other: bytes) -> bool:
    """Return whether two authorities are the same host and port.

    Case does not matter, nor a dot behind the name, nor a port that the scheme has by default (RFC 9110 section 4.2.3).

    :param scheme: in lower case; ``http`` or ``https``
    """
    if one == other:
        return True
    first, second = _AUTHORITY.match(one), _AUTHORITY.match(other)
    if first is None or second is None:
        return False
    default = _DEFAULT_PORTS[scheme]
    return _canonical(first, default) == _canonical(second, default)


def _canonical(authority: re.Match[bytes], default_port: bytes) -> tuple[bytes, bytes]:
    return authority[1].lower().removesuffix(b"."), (authority[2] or default_port).lstrip(b"0")


# --- paths ------------------------------------------------------------------------------------------------------------

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SLASHES = re.compile(rb"//+")
_SEPARATOR = re.compile(rb"%2F|%5C|\\")
_PARAMETERS = re.compile(rb"(?:;|%3B)[^/]*")
_IN_TWO_WAYS = re.compile(r"%2F|%5C|\\|;|%3B|%00")
_DOT_SEGMENT = re.compile(rb"/\.\.?(?:/|\Z)")
_DOT_SEGMENT_TO_SOME = re.compile(
    rb"(?:%2F|%5C|\\)\.\.?(?:/|%2F|%5C|\\|;|%3B|\Z)"  # behind what only some read as a slash
    rb"|/\.\.?(?:%2F|%5C|\\|;|%3B)"  # before it, or before parameters
)


def normal_path(path: bytes) -> str:
    """Return the one spelling of a path that routes match; the backend gets the target as it came.

    Unreserved characters are decoded, other escapes in upper case, slashes merged as nginx does, dot segments resolved.

    :param path: begins with a slash, or is ``*``
    :raises BadHead: with status 400, where an escape is not two hexadecimal digits, and where there is a dot segment to
        some servers only: to those that read ``%2F``, ``%5C`` or a backslash as a slash, or take parameters off a
        segment (``..;x``)
    """
    path = _decoded(path)
    if b"." in path:
        if _DOT_SEGMENT_TO_SOME.search(path):
            raise BadHead(400, "a dot segment in the request target that not every server resolves")
        if _DOT_SEGMENT.search(path):
            return _without_dot_segments(_merged(path)).decode("latin-1")
    return _merged(path).decode("latin-1")


def rejoined_path(path: bytes) -> bytes:
    """Return the one spelling of a path that was put together of parts of another.

    :raises BadHead: with status 400, where it is none any more: escapes were cut, or there are dot segments to any
        server, by which it would lead elsewhere than it was put
    """
    normal = _merged(_decoded(path))
    if _DOT_SEGMENT_TO_SOME.search(normal) or _DOT_SEGMENT.search(normal):
        raise BadHead(400, "the path has a dot segment once it is rewritten")
    return normal


def other_paths(path: bytes) -> set[str]:
    """Return to what else some servers resolve the dot segments of a path that :func:`normal_path` accepts.

    What ``..`` takes away depends on whether ``a%2Fb`` is two segments, and on whether slashes were merged before:
    ``/a//../b`` is ``/b`` to nginx and ``/a/b`` by RFC 3986 section 5.2.4.
    """
    path = _decoded(path)
    others: set[bytes] = set()
    if b"." in path and _DOT_SEGMENT.search(path):
        normal = _without_dot_segments(_merged(path))
        for read in _READINGS:
            seen = read(path)
            if seen != path or read is _literally:
                resolved = {_without_dot_segments(_merged(seen)), _merged(_without_dot_segments(seen))}
                others |= resolved - {_merged(read(normal))}
    return {other.decode("latin-1") for other in others}


def other_readings(path: str) -> set[str]:
    """Return what servers take a path for: as it is, with separators decoded, without parameters, and with both; each
    of them as far as a NUL, too, where servers in C stop reading.

    :param path: as :func:`normal_path` returns it
    """
    if not _IN_TWO_WAYS.search(path):
        return {path}
    read = path.encode("latin-1")
    readings = {_merged(reading(each)) for reading in _READINGS for each in (read, read.partition(b"%00")[0])}
    return {reading.decode("latin-1") for reading in readings}


def _decoded(path: bytes) -> bytes:
    return _ESCAPE.sub(_unescape, path) if b"%" in path else path


def _unescape(escape: re.Match[bytes]) -> bytes:
    digits = escape[1]
    if digits is None:
        raise BadHead(400, "malformed percent-encoding in the request target")
    value = int(digits, 16)
    return bytes((value,)) if value in _UNRESERVED else b"%" + digits.upper()


def _merged(path: bytes) -> bytes:
    return _SLASHES.sub(b"/", path) if b"//" in path else path


def _literally(path: bytes) -> bytes:
    return path


def _with_separators(path: bytes) -> bytes:
    """The path to a server that reads ``%2F``, ``%5C`` and backslashes as slashes."""
    return _SEPARATOR.sub(b"/", path)


def _without_parameters(path: bytes) -> bytes:
    """The path to a server that takes parameters off segments."""
    return _PARAMETERS.sub(b"", path)


_READINGS = (
    _literally,
    _with_separators,
    _without_parameters,
    lambda path: _without_parameters(_with_separators(path)),
    lambda path: _with_separators(_without_parameters(path)),
)
"""How servers read a path before they resolve it."""


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
