"""Requests to the admin address and the answers to them, as its handlers see them."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qsl, unquote

from gateway.protocol.heads import BadHead, RequestHead
from gateway.protocol.target import split_target

MAX_PARAMETERS = 100


class Socket(Protocol):
    """A client's socket, which only its connection reads and writes."""

    def fileno(self) -> int:
        """Return the descriptor, -1 when it is closed."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Texts are UTF-8; bytes that are not come as surrogates."""

    method: str
    path: str
    """without escapes and query"""
    query: list[tuple[str, str]]
    head: RequestHead
    body: bytes
    socket: Socket | None

    @classmethod
    def of(cls, head: RequestHead, body: bytes, sock: Socket | None) -> Request:
        """Read the target of a request. :raises BadHead: it is malformed"""
        target = split_target(head.target, head.method)
        try:
            query = parse_qsl(target.query[1:].decode(), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError as error:
            raise BadHead(400, f"malformed query: {error}") from None
        return cls(head.method.decode(), unquote(target.path.decode()), query, head, body, sock)

    def values(self, name: str) -> list[str]:
        """Return all values of a field, in order. :param name: in lower case"""
        return [value.decode("utf-8", "surrogateescape") for value in self.head.values(name.encode())]

    def value(self, name: str) -> str | None:
        """Return the first value of a field; None if there is none. :param name: in lower case"""
        found = self.values(name)
        return found[0] if found else None


@dataclass(slots=True)
class Response:
    """The answer to a request."""

    body: bytes
    content_type: str
    status: int = 200
    fields: Mapping[str, str] = field(default_factory=dict)

    def head(self, http11: bool, keep: bool, common: Mapping[str, str]) -> bytes:
        """Return the bytes before the body.

        :param keep: whether the connection stays open for another request
        :param common: fields that every answer has
        """
        lines = [
            f"HTTP/1.{int(http11)} {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime()),  # nothing here sets another locale
            *(f"{name}: {value}" for name, value in {**common, **self.fields}.items()),
        ]
        if not keep:
            lines.append("Connection: close")
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    """A request that is answered with an error status; ``str()`` says why."""

    def __init__(self, status: int, text: str = "", fields: Mapping[str, str] | None = None) -> None:
        """
        :param text: its status and what that means, if there is nothing else to say
        :param fields: further fields of the answer
        """
        super().__init__(text or f"{status}: {HTTPStatus(status).phrase}")
        self.status = status
        self.fields = fields or {}


def text(body: str, status: int = 200, fields: Mapping[str, str] | None = None) -> Response:
    """Return an answer in plain text."""
    return Response(body.encode("utf-8", "replace"), "text/plain; charset=utf-8", status, fields or {})


def encoded(data: object) -> bytes:
    """Return plain data as JSON."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def json_answer(body: bytes, status: int = 200, fields: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON. :param body: from :func:`encoded`"""
    return Response(body, "application/json; charset=utf-8", status, fields or {})
