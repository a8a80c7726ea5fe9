"""How servers of different kinds resolve the path of a request."""

import re
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]")


def remove_dot_segments(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4, word for word."""
    output = b""
    while path:
        if path.startswith(b"../"):
            path = path[3:]
        elif path.startswith((b"./", b"/./")):
            path = path[2:]
        elif path == b"/.":
            path = b"/"
        elif path.startswith(b"/../"):
            path = path[3:]
            output = output.rpartition(b"/")[0]
        elif path == b"/..":
            path = b"/"
            output = output.rpartition(b"/")[0]
        elif path in (b".", b".."):
            path = b""
        else:
            end = path.find(b"/", 1)
            end = len(path) if end < 0 else end
            output += path[:end]
            path = path[end:]
    return output


def merge_slashes(path: bytes) -> bytes:
    while b"//" in path:
        path = path.replace(b"//", b"/")
    return path


def decode_unreserved(path: bytes) -> bytes:
    def decoded(escape: re.Match[bytes]) -> bytes:
        byte = bytes([int(escape[1], 16)])
        return byte if UNRESERVED.match(byte) else escape[0].upper()

    return ESCAPE.sub(decoded, path)


def decode_separators(path: bytes) -> bytes:
    return re.sub(rb"(?i)%2F|%5C|\\", b"/", path)


def strip_parameters(path: bytes) -> bytes:
    return b"/".join(re.split(rb"(?i);|%3B", segment)[0] for segment in path.split(b"/"))


Step = Callable[[bytes], bytes]


class Server(NamedTuple):
    """A kind of server."""

    read: tuple[Step, ...]
    """what it does with a path before it resolves it"""
    resolve_by: tuple[Step, ...]

    def reads(self, path: bytes) -> bytes:
        """How a path looks to it."""
        for step in self.read:
            path = step(path)
        return path

    def resolves(self, path: bytes) -> bytes:
        """The path that it serves."""
        path = self.reads(decode_unreserved(path))
        for step in self.resolve_by:
            path = step(path)
        return path


READ: list[tuple[Step, ...]] = [
    (),
    (decode_separators,),
    (strip_parameters,),
    (decode_separators, strip_parameters),
    (strip_parameters, decode_separators),
]
SERVERS = [
    Server(read, resolve_by)
    for read, resolve_by in product(READ, [(merge_slashes, remove_dot_segments), (remove_dot_segments, merge_slashes)])
]
"""Those that take a path literally, those that read ``%2F``, ``%5C`` and backslashes as slashes, those that take
parameters off segments, and those that do both; each merging slashes before it resolves dot segments, or after."""
