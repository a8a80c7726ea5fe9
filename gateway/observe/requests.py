"""What is counted and logged of plain HTTP requests. Both are deferred and batched (``batch.py``)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from gateway.observe.access_log import AccessLog, Form
from gateway.observe.events import NO_ROUTE

if TYPE_CHECKING:
    from gateway.observe.batch import Batch
    from gateway.observe.events import Events

CLIENT_CLOSED_REQUEST = 499
"""In log and metrics, as with nginx: the client went away before there was an answer."""

HTTP = Form(
    "http",
    request_id="%s",
    client="%s",
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
    """A request that is over, as it is logged. Texts may be None where they are not known."""

    request_id: str | None
    client: str
    route: str | None
    backend: str | None
    """address of the backend that was asked last"""
    method: str
    host: str | None
    path: str
    status: int
    initiator: str | None
    """``client``, ``backend`` or ``gateway``: who cut it short; None where it went to its end"""
    cause: str | None
    """``fin``, ``reset``, ``timeout``, ``write_stall``, …"""
    reason: str | None
    """what the client was told, where the answer is the gateway's own"""
    request_bytes: int
    """of the request's body, in its framing"""
    bytes: int
    """of the answer's body"""
    first_byte: float | None
    """seconds until the answer began"""
    duration: float | None
    """seconds until it was over; both count from the request's first byte"""


class Requests:
    """Counts and logs the plain HTTP requests of one worker."""

    def __init__(self, events: Events, batch: Batch, log: AccessLog) -> None:
        """:param log: may be replaced at any time"""
        self.log = log
        self._events = events
        self._batch = batch

    def ended(self, request: Logged) -> None:
        """A request is over."""
        self._batch.add(self._ended, request, time.time())

    def _ended(self, request: Logged, at_unix: float) -> None:
        events = self._events.route(request.route or NO_ROUTE)
        self._batch.count(events.http_requests(str(request.status)))
        if request.duration is not None:
            self._batch.observe(events.http_seconds, request.duration)
        if self.log.enabled:
            self.log.write(HTTP, request, at_unix)
