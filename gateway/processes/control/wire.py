"""A message as bytes, and back: the message's name and its fields, in JSON.

Nothing that is received is executed, as pickled classes would be, and what cannot be understood is an error that says
what it was.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from gateway.processes.control.messages import Message
from gateway.processes.control.plain import Misfit, form_of

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Message)}
_SHOWN_BYTES = 40  # enough for the name of the message; what follows may be secret
_dump = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Unknown(ValueError):
    """What was received is no message of this version; ``str()`` says what it was."""


def pack(message: Message) -> bytes:
    """:param message: whose descriptor is not part of it"""
    kind: Any = type(message)
    return _dump([kind.__name__, form_of(kind).encoded(message)]).encode("ascii")


def unpack(data: bytes | bytearray) -> Message:
    """:raises Unknown: it is no message, none of this version, or its fields are not what they are to be"""
    try:
        name, fields = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        raise Unknown(f"{len(data)} bytes that are no message: {bytes(data[:_SHOWN_BYTES])!r}") from None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Unknown(f"a message of an unknown kind: {str(name)[:_SHOWN_BYTES]!r}")
    try:
        message: Message = form_of(kind).decoded(fields)
    except Misfit as error:
        raise Unknown(f"a message that does not fit: {error}") from None
    return message
