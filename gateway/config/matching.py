"""The conditions under which a route matches a request."""

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.field_names import FIELD_NAME_SCHEMA, FieldValue, parse_field_name, spelled_twice
from gateway.config.hostnames import check_hostname, check_ipv6
from gateway.config.names import Token, check_token
from gateway.config.section import Conflict, Section, value_of
from gateway.config.words import choices, found, quoted

_PATH_KEYS = ("path", "path_exact", "path_regex")
_ANY_SUBDOMAIN = "*."
_NEVER_SENT_ON = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te"),
        *("transfer-encoding", "content-length", "trailer"),
    )
)
"""Fields of one connection, and those that frame a message: a backend is not sent what was matched."""

# RFC 3986 3.3: the characters of a path, as sent in a request.
_PATH = re.compile(r"/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_DOT_SEGMENT = re.compile(r"(/|%2F|%5C)\.\.?(/|%2F|%5C|;|%3B|$)", re.IGNORECASE)
"""Dot segments to at least one kind of server. A request path with one is resolved, or refused if servers differ."""

_NEEDLESSLY_ENCODED = re.compile(r"%(2D|2E|5F|7E|3[0-9]|[46][1-9A-F]|[57][0-9A])", re.IGNORECASE)


def check_host_pattern(text: str) -> str:
    """Check a host, or `*.` and a host for all its subdomains; return it in lower case.

    :raises BadValue: it is neither
    """
    if text.startswith("[") and text.endswith("]"):
        return f"[{check_ipv6(text[1:-1])}]"
    if text == "*":
        raise BadValue("`*` is not a host", "leave `hosts` out to match every host")
    if ":" in text:
        raise BadValue(f"{quoted(text)} holds a port", "the name alone: every port matches")
    prefix = _ANY_SUBDOMAIN if text.startswith(_ANY_SUBDOMAIN) else ""
    name = text.removeprefix(prefix)
    if "*" in name:
        raise BadValue(f"{quoted(text)} holds a `*` elsewhere than in front", "such as *.example.com")
    return prefix + check_hostname(name)


def check_path(value: object) -> str:
    """Check that a request's normalised path (RFC 3986 6.2.2) can match a path, and return the path.

    :raises BadValue: it cannot, or is not a path
    """
    if not isinstance(value, str):
        raise BadValue(f"expected a path, found {found(value)}", "such as /ws/")
    if not value.startswith("/"):
        raise BadValue(f"{quoted(value)} does not start with a slash", "such as /ws/")
    if "?" in value or "#" in value:
        raise BadValue(f"{quoted(value)} is more than a path", "the part before the `?` or `#`")
    if not _PATH.fullmatch(value):
        raise BadValue(f"{quoted(value)} is not a path as requests send it", "percent-encoded, such as /caf%C3%A9")
    if _DOT_SEGMENT.search(value) or _NEEDLESSLY_ENCODED.search(value):
        # Requests are normalised before matching, so this would never match.
        raise BadValue(f"{quoted(value)} is not normalised", "without `.` and `..`, and no letter or digit encoded")
    return value


def check_regex(value: object) -> str:
    """Check that a regular expression, in Python's syntax, compiles, and return it.

    :raises BadValue: it does not, or is not text
    """
    if not isinstance(value, str):
        raise BadValue(f"expected a regular expression, found {found(value)}", 'such as "^/rooms/[0-9]+$"')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about syntax that may change its meaning in a later Python
            re.compile(value)
    except re.error as error:
        at = "" if error.pos is None else f" at character {error.pos + 1}"
        raise BadValue(f"not a regular expression: {error.msg}{at}", "the syntax of Python's re module") from None
    except (OverflowError, RecursionError):
        raise BadValue("the regular expression is too large", "a simpler one, or several routes") from None
    return value


def _check_field(value: object) -> str:
    lower = value.lower() if isinstance(value, str) else ""
    if lower == "host":
        raise BadValue("Host is matched by `hosts`", "`hosts` in place of it")
    if lower == "sec-websocket-protocol":
        raise BadValue("subprotocols are matched by `subprotocols`", "`subprotocols` in place of it")
    return parse_field_name(value, _NEVER_SENT_ON, "X-Tier")


def _check_parameter(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected the name of a parameter, found {found(value)}", 'such as v, or "1" in quotes')
    return value


def _check_parameter_value(value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"expected text, found {found(value)}", 'in quotes, "…", anything is text')
    return value


def check_method(text: str) -> str:
    """Check a method (RFC 9110 section 9.1) and return it. :raises BadValue: it is none, or no request has it"""
    check_token(text)
    if text != text.upper():
        raise BadValue(f"{quoted(text)} is not a method: case matters", text.upper())
    if text == "CONNECT":
        raise BadValue("CONNECT is for forward proxies, and always refused", "another method")
    return text


Path = Annotated[
    str | None,
    PlainValidator(check_path),
    WithJsonSchema({"type": "string", "pattern": "^/"}),
]
Regex = Annotated[str | None, PlainValidator(check_regex), WithJsonSchema({"type": "string", "format": "regex"})]
HostPattern = Annotated[str, AfterValidator(check_host_pattern)]
Method = Annotated[str, AfterValidator(check_method)]
_Field = Annotated[str, PlainValidator(_check_field), WithJsonSchema(FIELD_NAME_SCHEMA)]
_Parameter = Annotated[str, PlainValidator(_check_parameter), WithJsonSchema({"type": "string", "minLength": 1})]
_ParameterValue = Annotated[str, PlainValidator(_check_parameter_value), WithJsonSchema({"type": "string"})]


class Match(Section):
    """The conditions of a route; a request must meet all that are given. Without any, every request matches."""

    hosts: tuple[HostPattern, ...] = Field(
        default=(),
        min_length=1,
        description="Hosts that requests are for, such as chat.example.com or *.example.com; absent: any",
    )
    path: Path = Field(default=None, description="Prefix of the path, ending where a segment does")
    path_exact: Path = Field(default=None, description="The whole path")
    path_regex: Regex = Field(default=None, description="Regular expression (Python's syntax) for the path")
    subprotocols: tuple[Token, ...] = Field(
        default=(),
        min_length=1,
        description="WebSocket subprotocols of which the client has to offer one; absent: any",
    )

    headers: dict[_Field, FieldValue] = Field(
        default_factory=dict,
        description="Header fields that a request must have, with their exact values; several lines of one are joined"
        " by `, `",
    )
    query: dict[_Parameter, _ParameterValue] = Field(
        default_factory=dict,
        description="Parameters that its query must have, with their exact values, both decoded; of a repeated one each"
        " must have the value",
    )
    methods: tuple[Method, ...] = Field(
        default=(),
        min_length=1,
        description="Methods, of which it must have one; a WebSocket handshake is a GET; absent: any",
    )

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield every path condition except the first, and fields that are named twice."""
        headers = value_of(written, "headers")
        if isinstance(headers, Mapping):
            yield from spelled_twice(headers, ("headers",))
        given = [key for key in _PATH_KEYS if key in written]
        for key in given[1:]:
            yield Conflict((key,), BadValue(f"`{given[0]}` matches the path already", f"one of {choices(_PATH_KEYS)}"))
