"""Where a request is redirected to: a URL or path with parts of the request in it, such as ``https://{host}{uri}``.

A redirect that a client can bend to another host is one to a forger's site (an open redirect). So ``{host}`` is the
host by which the route was found, parts of the path stand only behind an authority that the configuration has written,
and what they begin with is a single slash: browsers take ``//evil.example`` and ``/\\evil.example`` for other hosts.
"""

from __future__ import annotations

import re

_PIECE = re.compile(r"\{(host|uri|path)\}|([^{}]+)|(.)", re.DOTALL)
# What stands before the first part of the path. The authority begins with its host, so no `user@` comes before it.
_START = re.compile(
    r"(?:https?://(?:\{host\}|[A-Za-z0-9.-]+(?:\{host\})?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)?(.*)", re.DOTALL
)
_TEXT = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=:@/?#\[\]-]|%[0-9A-Fa-f]{2})*")
_LEADING = re.compile(rb"[/\\]+")
_UNSAFE = re.compile(rb"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]")
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")


class MalformedLocation(ValueError):
    """It is nowhere to redirect to. ``str()`` says what is wrong."""


class NoHost(ValueError):
    """The request has no host, or none that a URL can have."""


class Location:
    """The text, taken apart."""

    def __init__(self, text: str) -> None:
        """:raises MalformedLocation: it is none"""
        self._pieces: list[tuple[bytes, str]] = []
        """text, or the name of what stands there"""
        for name, literal, other in _PIECE.findall(text):
            if other:
                raise MalformedLocation("in braces there may be {host}, {uri} or {path}")
            if literal and not _TEXT.fullmatch(literal):
                raise MalformedLocation("it has characters that URLs have percent-encoded only")
            self._pieces.append((literal.encode(), name))
        start = _START.fullmatch(text)
        assert start is not None  # both of its parts may be empty
        rest = start[1]
        if not rest.startswith(("/", "{uri}", "{path}")) and (rest or not text):
            raise MalformedLocation("it begins neither with http:// or https:// and a host, nor with a slash or {uri}")
        if rest == text and rest.startswith("//"):
            raise MalformedLocation("it begins with two slashes")
        if "{host}" in rest:
            raise MalformedLocation("{host} stands elsewhere than in place of a host")
        if re.search(r"(?<!\A)/(\{uri\}|\{path\})", rest) or rest.startswith(("/{uri}", "/{path}")):
            raise MalformedLocation("{uri} and {path} begin with a slash of their own")

    def of(self, host: str, target: bytes) -> bytes:
        """Return the value of the Location field (RFC 9110 section 10.2.2).

        :param host: of the request, in lower case, without a port
        :param target: of the request, in origin form
        :raises NoHost: the host is needed and is none
        """
        found = []
        for text, name in self._pieces:
            if not name:
                found.append(text)
            elif name == "host":
                if not _HOST.fullmatch(host):
                    raise NoHost("a request without a host cannot be redirected")
                found.append(host.encode())
            else:
                found.append(_uri(target if name == "uri" else target.partition(b"?")[0]))
        return b"".join(found)


def _uri(target: bytes) -> bytes:
    """A target as it stands in a URL: behind a single slash, and with nothing in it that a URL cannot have."""
    if not target.startswith(b"/"):
        return b"/"  # of OPTIONS *
    target = _LEADING.sub(b"/", target, count=1)
    return _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], target)
