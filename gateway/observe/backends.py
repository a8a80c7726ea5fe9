"""What is counted of connections to backends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.observe.batch import Batch
    from gateway.observe.events import Events
    from gateway.routing.balancing import Target
    from gateway.tunnels.table.table import Slice

TUNNEL, REQUEST = "tunnel", "request"
"""What a connection is for, in ``gateway_backend_connections_total``."""

DIAL, POOL = "dial", "pool"
"""Where it came from."""


class Backends:
    """Counts the connections of one worker."""

    def __init__(self, events: Events, batch: Batch, slice_: Slice) -> None:
        self._events = events
        self._batch = batch
        self._slice = slice_

    def connect_failed(self, target: Target, reason: str) -> None:
        """A backend cannot be reached. :param reason: one of few words, as it is a label"""
        self._events.connect_errors.labels(target.upstream, target.label, reason).inc()
        self._slice.note_connect(target.number, False, time.monotonic_ns())

    def connect_succeeded(self, target: Target) -> None:
        """A backend was reached."""
        self._slice.note_connect(target.number, True, time.monotonic_ns())

    def used(self, target: Target, purpose: str, source: str) -> None:
        """A connection is used: see ``TUNNEL``, ``REQUEST``, ``DIAL`` and ``POOL``."""
        self._batch.count(self._events.connected(target.upstream, target.label, purpose, source))
