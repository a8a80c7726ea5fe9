"""The token that the admin address asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.address import Address, parse_listen
from gateway.config.errors import BadValue
from gateway.config.section import Conflict
from gateway.config.words import found

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 2.1: what may follow ``Bearer``."""

_HINT = "letters, digits and -._~+/, such as ${ADMIN_TOKEN} made by `openssl rand -hex 32`"


def parse_token(value: object) -> str | None:
    """Parse a token. An empty one is none, so that ``${ADMIN_TOKEN:-}`` works. :raises BadValue: it is no token"""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadValue(f"expected a token, found {found(value)}", _HINT)
    if not _TOKEN.fullmatch(value):
        raise BadValue("holds characters that a bearer token cannot have", _HINT)  # without the token itself
    return value


def without_token(address: object, token: object) -> Iterator[Conflict]:
    """Yield an admin address that other machines can connect to, if there is no token. Arguments as in the file."""
    try:
        if address is None or parse_token(token) is not None:
            return
        parsed = parse_listen(address)
    except BadValue:
        return  # reported by its validator
    if not _is_local(parsed):
        message = f"other machines can connect to {parsed}, and there is no `token`"
        hint = "token: ${ADMIN_TOKEN}, or a loopback address such as 127.0.0.1:9100"
        yield Conflict(("address",), BadValue(message, hint))


def _is_local(address: Address) -> bool:
    if address.path is not None or address.host == "localhost":
        return True
    return ip_address((address.host or "").partition("%")[0]).is_loopback


Token = Annotated[str | None, PlainValidator(parse_token), WithJsonSchema({"type": "string"})]
