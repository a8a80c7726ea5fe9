"""Encodes and decodes messages: the message's name and its fields, in JSON.

Received data is never executed, as it could be with pickle. Data that cannot be decoded raises an error that says what
it was.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from gateway.processes.control.messages import Message
from gateway.processes.control.plain import Misfit, form_of

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Message)}
_SHOWN_BYTES = 40  # enough for the message's name; the rest may be secret
_dump = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Unknown(ValueError):
    """The received data is not a message of this version; ``str()`` says what it was."""


def prepare() -> None:
    """Work out how every message is encoded: in the template, so that no worker has to, nor keeps a copy of that."""
    for kind in _KINDS.values():
        form_of(kind)


def pack(message: Message) -> bytes:
    """Encode a message. :param message: its descriptor is not included"""
    kind: Any = type(message)
    return _dump([kind.__name__, form_of(kind).encoded(message)]).encode("ascii")


def unpack(data: bytes | bytearray) -> Message:
    """Decode a message. :raises Unknown: it is not a message, not one of this version, or its fields do not fit"""
    try:
        name, fields = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        raise Unknown(f"{len(data)} bytes that are not a message: {bytes(data[:_SHOWN_BYTES])!r}") from None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Unknown(f"an unknown message: {str(name)[:_SHOWN_BYTES]!r}")
    try:
        message: Message = form_of(kind).decoded(fields)
    except Misfit as error:
        raise Unknown(f"a malformed message: {error}") from None
    return message
