"""Metrics and log lines of TLS handshakes. Both are deferred and batched (``batch.py``)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.observe.forms import Form

if TYPE_CHECKING:
    from gateway.observe.batch import Batch
    from gateway.observe.events import Events
    from gateway.observe.handshakes import Handshakes

CLIENT, BACKEND = "client", "backend"
NO_VERSION = "-"
"""The ``version`` label where none was agreed on."""

FAILURE = Form("tls_handshake", client="%s", server_name="%s", result="%s", reason="%s", duration="%.6f")


class TlsHandshakes:
    """Counts the TLS handshakes of one worker, and logs those of clients that fail."""

    def __init__(self, events: Events, batch: Batch, handshakes: Handshakes) -> None:
        """:param handshakes: has the access log"""
        self._events = events
        self._batch = batch
        self._handshakes = handshakes

    def ended(self, side: str, result: str, version: str, started_ns: int) -> float:
        """Count a handshake.

        :param side: ``CLIENT`` or ``BACKEND``
        :param result: one of ``edge.tls.reasons.RESULTS``
        :param version: ``1.2``, ``1.3`` or ``NO_VERSION``
        :param started_ns: ``CLOCK_MONOTONIC`` when the connection was made
        :returns: how long it took, in seconds
        """
        seconds = (time.monotonic_ns() - started_ns) / 1e9
        self._batch.count(self._events.tls_handshakes(side, result, version))
        self._batch.observe(self._events.tls_seconds(side), seconds)
        return seconds

    def refused(self, client: str, server_name: str | None, result: str, reason: str, started_ns: int) -> None:
        """Count and log a client's handshake that failed. :param server_name: that the client asked for"""
        seconds = self.ended(CLIENT, result, NO_VERSION, started_ns)
        self._batch.add(self._log, (client, server_name, result, reason, seconds), time.time())

    def _log(self, values: tuple[str, str | None, str, str, float], at_unix: float) -> None:
        self._handshakes.log.write(FAILURE, values, at_unix)
