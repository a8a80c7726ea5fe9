"""Header fields that a route sets and removes, prepared for heads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from gateway.config import settings
from gateway.protocol.heads import plain_name

if TYPE_CHECKING:
    from gateway.protocol.heads import Field, Head


class Changes(NamedTuple):
    """What changes in a head."""

    names: frozenset[bytes]
    """of fields that are set or removed, in lower case; with ``-`` for other characters, too"""
    fields: tuple[Field, ...]
    """that are set, but for Host"""
    lines: bytes
    """the same, with CRLF behind each"""
    host: bytes
    """the value of Host; empty if it stays"""

    @classmethod
    def of(cls, changes: settings.FieldChanges) -> Changes:
        """Prepare what a configuration says."""
        fields = [(name.encode(), value.encode()) for name, value in changes.set]
        host = b"".join(value for name, value in fields if name.lower() == b"host")
        others = tuple(field for field in fields if field[0].lower() != b"host")
        named = [name for name, _ in fields] + [name.encode() for name in changes.remove]
        names = frozenset(map(bytes.lower, named)) | frozenset(map(plain_name, named))
        return cls(names, others, b"".join([b"%b: %b\r\n" % field for field in others]), host)

    def dropped_from(self, head: Head) -> frozenset[bytes]:
        """Return the names of a head's fields that go no further.

        CGI and its kind read ``X_Env`` and ``X.Env`` as ``X-Env``, so a client's own of such a spelling counts, too.
        """
        if not head.has_unclear_name:
            return self.names
        return self.names | {name for name in head.first if plain_name(name) in self.names}

    def added_to(self, fields: Iterable[Field]) -> list[Field]:
        """Return what is set that ``fields`` do not have."""
        given = {name.lower() for name, _ in fields}
        return [field for field in self.fields if field[0].lower() not in given]

    def applied_to(self, fields: Iterable[Field]) -> list[Field]:
        """Return ``fields`` with all changes."""
        return [*(field for field in fields if field[0].lower() not in self.names), *self.fields]
