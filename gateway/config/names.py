"""Names that users choose, and names that protocols define."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.config.errors import BadValue
from gateway.config.words import quoted

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_name(text: str) -> str:
    """Return `text` if it can name a route or an upstream.

    Names are labels of metrics and words on command lines and in logs, so none may need quotes.

    Raises:
        BadValue: it cannot.
    """
    if not _NAME.fullmatch(text):
        hint = "at most 63 letters, digits, `_`, `-` and `.`, beginning with a letter, digit or `_`"
        raise BadValue(f"{quoted(text)} is not a name", hint)
    return text


def check_token(text: str) -> str:
    """Return `text` if it is a token (RFC 9110 5.6.2), as a WebSocket subprotocol has to be (RFC 6455 4.1).

    Raises:
        BadValue: it is not.
    """
    if not _TOKEN.fullmatch(text):
        raise BadValue(f"{quoted(text)} is not a token", "letters, digits and !#$%&'*+.^_`|~- without spaces")
    return text


def check_upgrade(text: str) -> str:
    """Return the protocol `text` (`name` or `name/version`, RFC 9110 7.8) in lower case.

    Raises:
        BadValue: it is no protocol, or one that must not pass a gateway.
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
