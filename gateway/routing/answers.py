"""What a route answers itself, in place of a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config import settings
from gateway.protocol.location import Location

if TYPE_CHECKING:
    from gateway.protocol.heads import Field

_TEXT = (b"Content-Type", b"text/plain; charset=utf-8")


class OwnAnswer:
    """A redirect, or a text of the configuration's."""

    def __init__(self, answer: settings.OwnAnswer) -> None:
        self.status = answer.status
        self._location = None if answer.to is None else Location(answer.to)
        self._body = answer.body.encode()

    def to(self, host: str, target: bytes) -> tuple[list[Field], bytes]:
        """Return fields and body for a request.

        :param host: of the request, in lower case, without a port
        :param target: of the request, in origin form
        :raises NoHost: it is needed and is none
        """
        if self._location is None:
            return ([_TEXT] if self._body else []), self._body
        location = self._location.of(host, target)
        return [(b"Location", location), _TEXT], b"see %b\n" % location
