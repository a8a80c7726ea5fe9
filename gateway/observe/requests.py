"""Metrics and log lines of plain HTTP requests. Both are deferred and batched (``batch.py``)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from gateway.observe.access_log import AccessLog
from gateway.observe.events import NO_ROUTE
from gateway.observe.forms import Form

if TYPE_CHECKING:
    from gateway.observe.batch import Batch
    from gateway.observe.events import Events

CLIENT_CLOSED_REQUEST = 499
"""Status in log and metrics, as in nginx: the client left before there was an answer."""

HTTP = Form(
    "http",
    request_id="%s",
    client="%s",
    user="%s",
    route="%s",
    backend="%s",
    method="%s",
    host="%s",
    path="%s",
    status="%d",
    initiator="%s",
    cause="%s",
    reason="%s",
    request_bytes="%d",
    bytes="%d",
    first_byte="%s",
    duration="%s",
)


class Logged(NamedTuple):
    """A finished request, as it is logged. Texts may be None if they are not known."""

    request_id: str | None
    client: str
    user: str | None
    """whom its credentials have shown"""
    route: str | None
    backend: str | None
    """address of the last backend that was tried"""
    method: str
    host: str | None
    path: str
    status: int
    initiator: str | None
    """which side cut it short: ``client``, ``backend`` or ``gateway``; None if it was completed"""
    cause: str | None
    """``fin``, ``reset``, ``timeout``, ``write_stall``, …"""
    reason: str | None
    """the text sent to the client, if the gateway itself answered"""
    request_bytes: int
    """of the request's body, including its framing"""
    bytes: int
    """of the answer's body"""
    first_byte: float | None
    """seconds until the answer began"""
    duration: float | None
    """seconds until it was over; both are measured from the request's first byte"""


class Requests:
    """Counts and logs the plain HTTP requests of one worker."""

    def __init__(self, events: Events, batch: Batch, log: AccessLog) -> None:
        """:param log: may be replaced at any time"""
        self.log = log
        self._events = events
        self._batch = batch

    def ended(self, request: Logged) -> None:
        """Report a finished request."""
        self._batch.add(self._ended, request, time.time())

    def _ended(self, request: Logged, at_unix: float) -> None:
        events = self._events.route(request.route or NO_ROUTE)
        self._batch.count(events.http_requests(str(request.status)))
        if request.duration is not None:
            self._batch.observe(events.http_seconds, request.duration)
        if self.log.enabled:
            self.log.write(HTTP, request, at_unix)
