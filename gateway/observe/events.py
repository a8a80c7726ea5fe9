"""Metrics that change at the rate of handshakes, requests and closes. Each worker keeps them with prometheus-client.

Events that occur per message are counted in the shared table instead; ``admin/collector.py`` reads both.

Each worker writes one set of files, named after its slot, in a directory that the supervisor owns. The successor of a
dead worker continues its files, so counters never go down and files do not pile up.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import Any

from gateway.observe.backend_counts import BackendCounts

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
NO_ROUTE = "-"
"""The ``route`` label of events before a route was found."""

RESULTS = (
    "upgraded",
    "refused_by_backend",
    "bad_request",
    "stripped_upgrade",
    "no_route",
    "forbidden",
    "limited",
    "connect_error",
    "timeout",
    "unavailable",
)
CLIENT_GONE = "client_gone"
"""The result of a handshake whose client left before there was one; in the access log only."""

FOR_TUNNEL, FOR_REQUEST = "tunnel", "request"
"""What a connection to a backend is used for."""
FROM_DIAL, FROM_POOL = "dial", "pool"
"""Where it came from: opened for this purpose, or kept from an earlier request."""

HANDSHAKE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
REQUEST_BUCKETS = (*HANDSHAKE_BUCKETS, 30, 60)
DROP_BUCKETS = (5, 10, 25, 30, 55, 60, 100, 120, 240, 300, 350, 600, 1800, 3600)
TUNNEL_BUCKETS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)


def use_files_of(slot: int) -> None:
    """Keep this process's metrics in the files of a slot. Call before creating the first metric.

    :raises RuntimeError: ``PROMETHEUS_MULTIPROC_DIR`` is not set
    """
    if DIRECTORY not in os.environ:
        raise RuntimeError(f"{DIRECTORY} is not set: workers must be started by the supervisor")
    import_what_counts()
    from prometheus_client import values

    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]  # it is untyped


def import_what_counts() -> None:
    """Import only the parts of prometheus-client that count. Call it before anything else that imports the package.

    Importing the package itself also imports its HTTP server and everything that needs, 4 MB in each worker. So put an
    empty package into ``sys.modules``, from which submodules can be imported.
    """
    if "prometheus_client" not in sys.modules:
        spec = importlib.util.find_spec("prometheus_client")
        assert spec is not None
        sys.modules["prometheus_client"] = importlib.util.module_from_spec(spec)
    import prometheus_client.metrics
    import prometheus_client.registry
    import prometheus_client.values  # noqa: F401  # for those that are created later


class Durations:
    """A child of a histogram that takes many values at once, which is much cheaper than prometheus-client's
    ``observe()`` for each value."""

    def __init__(self, child: Any) -> None:
        """:param child: of a ``Histogram`` of prometheus-client, by its labels"""
        self._bounds: list[float] = child._upper_bounds
        self._buckets = [bucket.inc for bucket in child._buckets]
        self._sum = child._sum.inc

    def observe_all(self, values: Sequence[float]) -> None:
        """Same as ``observe()`` for each value."""
        found = [0] * len(self._bounds)
        for value in values:
            found[bisect_left(self._bounds, value)] += 1
        for count, inc in zip(found, self._buckets, strict=True):
            if count:
                inc(count)
        self._sum(sum(values))


class RouteEvents:
    """The metrics of one route."""

    def __init__(self, events: Events, route: str) -> None:
        self._events = events
        self._route = route
        self.handshake_seconds = Durations(events.handshake_seconds.labels(route))
        self.tunnel_seconds = Durations(events.tunnel_seconds.labels(route))
        self.http_seconds = Durations(events.http_seconds.labels(route))
        # Children are cached: each is looked up by its labels only once.
        self.handshakes = cache(lambda result: events.handshakes.labels(route, result).inc)
        self.closed = cache(lambda initiator, cause: events.closed.labels(route, initiator, cause).inc)
        self.close_codes = cache(lambda side, code: events.close_codes.labels(route, side, code).inc)
        self.drop_idle = cache(lambda side: Durations(events.drop_idle.labels(route, side)))
        self.http_requests = cache(lambda code: events.http_requests.labels(route, code).inc)


class Events:
    """The metrics of one worker."""

    def __init__(self, slot: int | None = None) -> None:
        """:param slot: as of :func:`use_files_of`; None: counters of backends are in memory only"""
        from prometheus_client.metrics import Counter, Histogram
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry()
        self.handshakes = Counter("gateway_handshakes", "Handshakes by result", ["route", "result"], registry=registry)
        self.handshake_seconds = Histogram(
            "gateway_handshake_duration_seconds",
            "From a request's first byte to the 101 or to the answer that refuses it",
            ["route"],
            buckets=HANDSHAKE_BUCKETS,
            registry=registry,
        )
        self.tunnel_seconds = Histogram(
            "gateway_tunnel_duration_seconds",
            "Lifetime of tunnels that have ended",
            ["route"],
            buckets=TUNNEL_BUCKETS,
            registry=registry,
        )
        self.closed = Counter(
            "gateway_tunnels_closed",
            "Ended tunnels, by the side that began the end and the cause",
            ["route", "initiator", "cause"],
            registry=registry,
        )
        self.close_codes = Counter(
            "gateway_close_codes",
            "Codes of Close frames that endpoints sent; none where there was no Close frame",
            ["route", "side", "code"],
            registry=registry,
        )
        self.drop_idle = Histogram(
            "gateway_drop_idle_seconds",
            "How long a side's connection had been silent when it was cut without a Close frame",
            ["route", "side"],
            buckets=DROP_BUCKETS,
            registry=registry,
        )
        self.http_requests = Counter(
            "gateway_http_requests", "Requests answered as plain HTTP", ["route", "code"], registry=registry
        )
        self.http_seconds = Histogram(
            "gateway_http_request_duration_seconds",
            "From a plain request's first byte to the end of its answer",
            ["route"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        auth = Counter(
            "gateway_auth",
            "Answers to requests with or without credentials, where a route asks for some",
            ["route", "method", "result"],
            registry=registry,
        )
        self.auth = cache(lambda route, method, result: auth.labels(route, method, result).inc)
        limited = Counter(
            "gateway_limited",
            "What a limit of a route has refused, closed or slowed down",
            ["route", "limit"],
            registry=registry,
        )
        self.limited = cache(lambda route, limit: limited.labels(route, limit).inc)
        tls_handshakes = Counter(
            "gateway_tls_handshakes",
            "TLS handshakes with clients and backends, by result",
            ["side", "result", "version"],
            registry=registry,
        )
        tls_seconds = Histogram(
            "gateway_tls_handshake_duration_seconds",
            "From the start of a TLS handshake to its end",
            ["side"],
            buckets=HANDSHAKE_BUCKETS,
            registry=registry,
        )
        self.tls_handshakes = cache(lambda side, result, version: tls_handshakes.labels(side, result, version).inc)
        self.tls_seconds = cache(lambda side: Durations(tls_seconds.labels(side)))
        self.connection_faults = Counter(
            "gateway_connection_faults",
            "Requests and handshakes ended because of an error in the gateway itself",
            registry=registry,
        )
        self.backends = BackendCounts(
            None if slot is None else os.path.join(os.environ[DIRECTORY], f"counter_backends_{slot}.db")
        )
        self.route = cache(lambda name: RouteEvents(self, name))
