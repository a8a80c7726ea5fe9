"""Close codes that an operator may have the gateway send (RFC 6455 section 7.4, IANA registry)."""

from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.words import found, number

_LISTED = (1000, 1001, 1008, 1011, 1012, 1013, 1014)
"""Those that say something of the server. The others blame the client, or stand for what was never sent."""

_OWN = range(3000, 5000)
_CHOICES = "1000, 1001, 1008, 1011 to 1014, or 3000 to 4999"


def parse_close_code(value: object) -> int:
    """Return the close code that `value`, a number, stands for.

    Raises:
        BadValue: it is no number, or one that the gateway has no reason to send, or must not.
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
