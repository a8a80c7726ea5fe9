"""Names chosen by users, and names defined by protocols."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config.errors import BadValue
from gateway.config.words import quoted

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_name(text: str) -> str:
    """Check the name of a route or an upstream, and return it.

    Names are used as labels of metrics, on command lines and in logs, so they must not need quotes.

    :raises BadValue: it is not a valid name
    """
    if not _NAME.fullmatch(text):
        hint = "at most 63 letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_`"
        raise BadValue(f"{quoted(text)} is not a name", hint)
    return text


def check_token(text: str) -> str:
    """Check a token (RFC 9110 5.6.2), such as a WebSocket subprotocol (RFC 6455 4.1), and return it.

    :raises BadValue: it is not
    """
    if not _TOKEN.fullmatch(text):
        raise BadValue(f"{quoted(text)} is not a token", "letters, digits and !#$%&'*+.^_`|~- without spaces")
    return text


def check_upgrade(text: str) -> str:
    """Check a protocol (`name` or `name/version`, RFC 9110 7.8), and return it in lower case.

    :raises BadValue: it is not a protocol, or one that must not pass a gateway
    """
    protocol = text.lower()
    name, slash, version = protocol.partition("/")
    check_token(name)
    if slash:
        check_token(version)
    if name == "h2c":
        raise BadValue(
            "h2c cannot be listed: inside its tunnel a client could send any request past the routes",
            "leave it out; the request is then served as plain HTTP",
        )
    return protocol


Name = Annotated[str, AfterValidator(check_name), Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"})]
Token = Annotated[str, AfterValidator(check_token), Field(json_schema_extra={"pattern": f"^{_TOKEN.pattern}$"})]
Upgrade = Annotated[str, AfterValidator(check_upgrade)]
