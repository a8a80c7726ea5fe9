"""Close codes that can be configured for the gateway to send (RFC 6455 section 7.4, IANA registry)."""

from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.words import found, number

_LISTED = (1000, 1001, 1008, 1011, 1012, 1013, 1014)
"""Codes about the server. Other registered codes blame the client, or are never sent in a frame."""

_OWN = range(3000, 5000)
_CHOICES = "1000, 1001, 1008, 1011 to 1014, or 3000 to 4999"


def parse_close_code(value: object) -> int:
    """Check a close code and return it.

    :raises BadValue: it is not a number, or not a code that the gateway may send
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue(f"expected a close code, found {found(value)}", _CHOICES)
    if value not in _LISTED and value not in _OWN:
        raise BadValue(f"{number(value)} is not a close code that a gateway may send", _CHOICES)
    return value


CloseCode = Annotated[
    int,
    PlainValidator(parse_close_code),
    WithJsonSchema({"anyOf": [{"enum": list(_LISTED)}, {"type": "integer", "minimum": 3000, "maximum": 4999}]}),
]
