"""Metrics and log lines of handshakes. Both are deferred and batched (``batch.py``).

Compiled by Cython if a C compiler is available (types in ``handshakes.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.observe.access_log import AccessLog
from gateway.observe.events import CLIENT_GONE, NO_ROUTE
from gateway.observe.forms import Form

if TYPE_CHECKING:
    from gateway.observe.batch import Batch
    from gateway.observe.events import Events

HANDSHAKE = Form(
    "handshake",
    request_id="%s",
    client="%s",
    user="%s",
    route="%s",
    backend="%s",
    host="%s",
    path="%s",
    result="%s",
    status="%s",
    reason="%s",
    duration="%.6f",
)
REFUSAL = Form("handshake", client="%s", route="%s", result="%s", status="%s", reason="%s")


class Handshake(NamedTuple):
    """The parts of a request that are logged."""

    request_id: str
    client: str
    route: str
    host: str
    path: str
    started_ns: int
    user: str | None
    """whom its credentials have shown"""


class Handshakes:
    """Counts and logs the handshakes of one worker."""

    def __init__(self, events: Events, batch: Batch, log: AccessLog) -> None:
        """:param log: may be replaced at any time"""
        self.log = log
        self._events = events
        self._batch = batch

    def refused(
        self, client: str, route: str | None, result: str, status: int | None, reason: str, started_ns: int
    ) -> None:
        """Report a handshake that was refused before it had a route, or because of its contents.

        :param status: of the answer; None if the connection was closed without one
        :param started_ns: when its first byte arrived; 0 if none did
        """
        events = self._events.route(route or NO_ROUTE)
        self._batch.count(events.handshakes(result))
        if started_ns:
            self._batch.observe(events.handshake_seconds, (time.monotonic_ns() - started_ns) / 1e9)
        self._batch.add(self._log, REFUSAL, (client, route, result, status, reason), time.time())

    def ended(
        self, request: Handshake, result: str, status: int | None, reason: str | None, backend: str | None
    ) -> None:
        """Report the end of a handshake with a route. It is counted unless the client has gone."""
        self._batch.add(self._ended, request, result, status, reason, backend, time.monotonic_ns(), time.time())

    def _ended(
        self,
        request: Handshake,
        result: str,
        status: int | None,
        reason: str | None,
        backend: str | None,
        at_ns: int,
        at_unix: float,
    ) -> None:
        seconds = (at_ns - request.started_ns) / 1e9
        if result != CLIENT_GONE:
            events = self._events.route(request.route)
            self._batch.count(events.handshakes(result))
            self._batch.observe(events.handshake_seconds, seconds)
        if self.log.enabled:
            id_, client, route, host, path, _, user = request
            self.log.write(
                HANDSHAKE, (id_, client, user, route, backend, host, path, result, status, reason, seconds), at_unix
            )

    def _log(self, form: Form, values: Any, at_unix: float) -> None:
        self.log.write(form, values, at_unix)
