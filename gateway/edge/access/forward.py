"""Forward auth: a server is asked about each request of a route, and its answer decides.

2xx lets the request in; the backend then gets the fields of the answer that ``copy`` names, and no others of these
names. Any other answer is relayed to the client. Where there is no answer, the client gets 503: nothing comes in
unchecked.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from gateway.edge.access.asked import asked_fields
from gateway.edge.access.auth_server import AuthServer
from gateway.edge.access.granted import Granted, names_without
from gateway.edge.refused import Refused
from gateway.protocol.fields import HOP_BY_HOP
from gateway.routing.recent import Recent

if TYPE_CHECKING:
    from gateway.config import settings
    from gateway.edge.access.asked import TextField
    from gateway.edge.access.auth_server import Answer
    from gateway.edge.access.method import Cancel, Entering, Verdict, Waiting
    from gateway.edge.access.services import Services
    from gateway.protocol.heads import Field

MAX_CACHED = 4096
MAX_CACHED_BYTES = 4096
"""Of an answer's copied fields; what has more is not cached."""

MAX_USER_CHARACTERS = 256
_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_UNSAFE = re.compile(rb"[\r\n\0]")
_NOT_RELAYED = HOP_BY_HOP | {b"content-length", b"trailer"}
_UNCHECKED = "the credentials could not be checked"


class Forward:
    """A :class:`gateway.edge.access.method.Method`."""

    name = "forward"

    def __init__(
        self, auth: settings.ForwardAuth, services: Services, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        :param clock: in seconds
        :raises OSError: its CAs cannot be used
        """
        self._server = AuthServer(auth, services.addresses, services.credentials)
        self._loop_mark = services.loop_mark
        self._copied = tuple((name.encode(), name.lower().encode()) for name in auth.copy_fields)
        self._without = names_without(name for name, _ in self._copied)
        # Other fields may hold secrets, such as Authorization.
        self._user_fields = tuple(lower for _, lower in self._copied if b"user" in lower)
        self._clock = clock
        self._cache_seconds = auth.cache
        self._cached: Recent[bytes, tuple[float, Granted]] = Recent(MAX_CACHED)
        self._secret = os.urandom(32)

    def check(self, request: Entering) -> Granted | Waiting:
        """See :class:`gateway.edge.access.method.Method`."""
        fields = asked_fields(request, self._loop_mark)
        key = None
        if self._cache_seconds is not None:
            key = self._key(fields)
            found = self._cached.get(key)
            if found is not None and self._clock() < found[0]:
                return found[1]
        if not self._server.has_room():
            raise _unchecked()
        fields.append(("X-Request-Id", request.request_id))

        def start(verdict: Verdict) -> Cancel:
            return self._server.ask(fields, lambda answer: verdict(self._judge(answer, key)))

        return start

    def close(self) -> None:
        """See :class:`gateway.edge.access.method.Method`."""
        self._server.close()

    # --- the answer ---------------------------------------------------------------------------------------------------

    def _judge(self, answer: Answer | None, key: bytes | None) -> Granted | Refused:
        """:param key: by which the answer is cached; None for not at all"""
        if answer is None:
            return _unchecked()
        for name, value in answer.fields:
            if not _NAME.match(name) or _UNSAFE.search(value):
                self._server.warn("its answer has a malformed header field")
                return _unchecked()
        if answer.status >= 300:
            return self._refusal(answer)
        granted = self._granted(answer.fields)
        if key is not None and self._cache_seconds is not None and len(granted.fields) <= MAX_CACHED_BYTES:
            self._cached.keep(key, (self._clock() + self._cache_seconds, granted))
        return granted

    def _granted(self, fields: Sequence[Field]) -> Granted:
        values: dict[bytes, list[bytes]] = {lower: [] for _, lower in self._copied}
        for name, value in fields:
            if (lower := name.lower()) in values:
                values[lower].append(value)
        lines = [b"%b: %b\r\n" % (name, value) for name, lower in self._copied for value in values[lower]]
        users = [value for lower in self._user_fields for value in values[lower] if value]
        user = users[0].decode("utf-8", "replace")[:MAX_USER_CHARACTERS] if users else None
        return Granted(user, b"".join(lines), self._without)

    def _refusal(self, answer: Answer) -> Refused:
        """The answer for the client: that of the auth server."""
        dropped = set(_NOT_RELAYED)
        for name, value in answer.fields:
            if name.lower() == b"connection":
                dropped.update(item.strip().lower() for item in value.split(b","))
        fields = [(name, value) for name, value in answer.fields if name.lower() not in dropped]
        if answer.body is None:
            # Nobody could tell a part of it from all of it, so a text takes its place.
            self._server.warn(f"its answer with status {answer.status} is too long to relay")
            fields = [(name, value) for name, value in fields if not name.lower().startswith(b"content-")]
        result = "unavailable" if answer.status >= 500 else "forbidden"
        reason = f"the auth server has answered with {answer.status}"
        return Refused(answer.status, reason, result, fields=fields, body=answer.body)

    def _key(self, fields: Sequence[TextField]) -> bytes:
        """What stands for all that the auth server is told of a request. Credentials are not kept as they are."""
        digest = blake2b(key=self._secret, digest_size=32)
        for name, value in fields:
            digest.update(f"{name}:{value}\n".encode())  # no value has a line feed in it
        return digest.digest()


def _unchecked() -> Refused:
    return Refused(503, _UNCHECKED, "unavailable")
