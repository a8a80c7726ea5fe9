"""What a route makes of a path for its backends: another prefix, or what a regular expression says.

What is rewritten is the path that the route was matched by (:func:`gateway.protocol.target.normal_path`): ``/%77s/x``
was matched as ``/ws/x``, and it is from that that ``/ws`` is taken off. So a path that is rewritten reaches the backend
in its normal spelling, as behind nginx's ``proxy_pass`` with a path. It begins with one slash, and has no dot segment
for any server: it does not leave the prefix that was added.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from gateway.config import settings
from gateway.protocol.heads import BadHead
from gateway.protocol.substitution import Template
from gateway.protocol.target import normal_path, rejoined_path

LONGEST_PATH = 1024
"""Characters of a path that a regular expression is tried on: the bound for which the configuration was checked."""


class Rewritten(NamedTuple):
    """What stands in a target in place of its path."""

    path: bytes
    parameters: bytes
    """that come before those of its query; mostly empty"""

    def of(self, target: bytes) -> bytes:
        """Return a target with it. :param target: in origin form; its query stays"""
        _, mark, query = target.partition(b"?")
        if not self.parameters:
            return self.path + mark + query
        return b"%b?%b%b%b" % (self.path, self.parameters, b"&" if query else b"", query)


Rewrite = Callable[[str], Rewritten | None]
"""Rewrites a normal path; None where the target stays as it came.

:raises BadHead: 414 if it is too long, 400 if what it becomes is no path
"""


def rewrite_of(rewrite: settings.Rewrite) -> Rewrite:
    """Return what a configuration says."""
    if rewrite.regex is not None:
        return _by_regex(*rewrite.regex)
    return _by_prefix(rewrite.strip_prefix or "", rewrite.add_prefix or "")


def _by_prefix(strip: str, add: str) -> Rewrite:
    stripped = normal_path(strip.encode()).rstrip("/") if strip else ""
    below = stripped + "/"
    added = normal_path(add.encode()) if add else "/"
    before = added.rstrip("/").encode()

    def rewritten(path: str) -> Rewritten | None:
        if not path.startswith("/"):
            return None  # OPTIONS *
        if path == stripped:
            return Rewritten(added.encode(), b"")
        rest = path[len(stripped) :] if path.startswith(below) else path
        return Rewritten(before + rest.encode("latin-1"), b"")

    return rewritten


def _by_regex(expression: str, to: str) -> Rewrite:
    search = re.compile(expression).search
    template = Template(to)

    def rewritten(path: str) -> Rewritten | None:
        if len(path) > LONGEST_PATH:
            raise BadHead(414, f"the path is longer than {LONGEST_PATH} characters, and would be rewritten")
        match = search(path)
        if match is None:
            return None
        new, parameters = template.expand(match)
        return Rewritten(rejoined_path(new.encode("latin-1")), parameters.encode("latin-1"))

    return rewritten
