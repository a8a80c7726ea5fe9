"""What a path becomes by a regular expression: text with groups of the match in it, such as ``/new/\\1?from=\\2``."""

from __future__ import annotations

import re

_PIECE = re.compile(r"\\(?:([1-9][0-9]?)|g<([A-Za-z_][A-Za-z0-9_]*|[0-9]{1,2})>)|([^\\]+)|(.)", re.DOTALL)
# RFC 3986 sections 3.3 and 3.4.
_TEXT = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_NGINX_GROUP = re.compile(r"\$[0-9{]")
_SPECIAL_IN_QUERY = re.compile(r"[&=+;?#]")


class MalformedTemplate(ValueError):
    """It is not the text of a path. ``str()`` says what is wrong."""


class Template:
    """The text, taken apart."""

    def __init__(self, text: str) -> None:
        """
        :param text: ``\\1`` and ``\\g<name>`` stand for groups; behind a ``?`` there are parameters
        :raises MalformedTemplate: it is none
        """
        self.groups: list[int | str] = []
        """numbers and names of the groups that it needs"""
        if not text.startswith("/"):
            raise MalformedTemplate("it does not begin with a slash")
        path: list[tuple[str, int | str | None]] = []
        query: list[tuple[str, int | str | None]] | None = None
        for number, name, literal, other in _PIECE.findall(text):
            if other:
                raise MalformedTemplate("a backslash that no group follows")
            if number or name:
                group = int(number or name) if (number or name).isdigit() else str(name)
                self.groups.append(group)
                (path if query is None else query).append(("", group))
                continue
            if _NGINX_GROUP.search(literal):
                raise MalformedTemplate("groups are \\1, not $1")
            if not _TEXT.fullmatch(literal):
                raise MalformedTemplate("it has characters that are percent-encoded in paths")
            if query is None:
                before, mark, literal = literal.partition("?")
                path.append((before, None))
                if not mark:
                    continue
                query = []
            if "?" in literal:
                raise MalformedTemplate("a second ?")
            query.append((literal, None))
        if query is not None and not any(text or group is not None for text, group in query):
            raise MalformedTemplate("nothing behind the ?")
        self._path = path
        self._query = query or []

    def expand(self, match: re.Match[str]) -> tuple[str, str]:
        """Return path and parameters for a match. Groups that took no part are empty.

        What a group has of ``&`` and the like is percent-encoded among the parameters: it adds none.
        """
        path = "".join([text if group is None else match[group] or "" for text, group in self._path])
        query = "".join([text if group is None else _in_query(match[group] or "") for text, group in self._query])
        return path, query


def _in_query(text: str) -> str:
    return _SPECIAL_IN_QUERY.sub(lambda found: f"%{ord(found[0]):02X}", text)
