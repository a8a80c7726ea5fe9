"""Metrics of connections to backends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.observe.batch import Batch
    from gateway.observe.events import Events
    from gateway.observe.failures import Failures
    from gateway.routing.balancing import Target
    from gateway.tunnels.table.slice import Slice

TUNNEL, REQUEST = "tunnel", "request"
"""What a connection is used for, in ``gateway_backend_connections_total``."""

DIAL, POOL = "dial", "pool"
"""Where it came from."""


class Backends:
    """Counts the connections of one worker."""

    def __init__(self, events: Events, batch: Batch, slice_: Slice, failures: Failures) -> None:
        """:param failures: collects those of backends that may be ejected"""
        self._counts = events.backends
        self._batch = batch
        self._slice = slice_
        self.failed = failures.count
        """counts a failed handshake or request; those to connect are counted here"""

    def connect_failed(self, target: Target, reason: str) -> None:
        """Count a failed attempt to connect. :param reason: one of a few words, since it is a label"""
        self.failed(target)
        self._counts.connect_failed(target.upstream, target.label, reason)
        self._slice.note_connect(target.number, False, time.monotonic_ns())

    def connect_succeeded(self, target: Target) -> None:
        """Note that a backend was reached."""
        self._slice.note_connect(target.number, True, time.monotonic_ns())

    def used(self, target: Target, purpose: str, source: str) -> None:
        """Count the use of a connection: see ``TUNNEL``, ``REQUEST``, ``DIAL`` and ``POOL``."""
        self._batch.count(self._counts.connected(target.upstream, target.label, purpose, source))
