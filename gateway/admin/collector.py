"""Metrics for Prometheus: from the shared table and the supervisor, merged with the files that the workers write.

:class:`TableCollector` covers the table and the supervisor; :func:`render` makes a whole scrape. No worker is involved.
"""

from __future__ import annotations

import logging
import os
import platform
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.admin.exposition import CONTENT_TYPE, plain_text
from gateway.admin.idle import IDLE_BUCKETS_SECONDS, idle_by_route
from gateway.admin.keepalive import keepalive_now
from gateway.admin.live import LiveRow, live_rows
from gateway.admin.rebalances import CLOSED, ENDED
from gateway.admin.state import CHECK_RESULTS, EJECTION_RESULTS, GatewayState, is_up
from gateway.admin.totals import blocks_of, summed
from gateway.build import relay_build
from gateway.config.credentials import is_url
from gateway.observe.ends import DIRECTIONS
from gateway.protocol.scanner_state import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from gateway.routing.registry import BackendKey, Registry
from gateway.tunnels.table.layout import (
    GAP_BOUNDS_NS,
    RTT_BOUNDS_NS,
    SIDES,
    T_BYTES,
    T_FRAMES,
    T_GAPS,
    T_GAPS_SUM_NS,
    T_PINGS,
    T_PONGS,
    T_RTT_SUM_NS,
    T_RTTS,
    T_TIMEOUTS,
    T_VIOLATIONS,
    TOTAL_CELLS,
    W_LOG_LINES_LOST,
)
from gateway.version import VERSION

NS = 1e9
_OPCODES = {
    "text": TEXT,
    "binary": BINARY,
    "continuation": CONTINUATION,
    "close": CLOSE,
    "ping": PING,
    "pong": PONG,
}
# Bounds formatted like those of the workers' histograms.
_LE = (*(str(float(seconds)) for seconds in IDLE_BUCKETS_SECONDS), "+Inf")

log = logging.getLogger("gateway")


def render(state: GatewayState, multiproc_dir: str, accept: str = "") -> tuple[bytes, str]:
    """Return a whole scrape and its content type. This is slow: call it outside the event loop.

    :param multiproc_dir: directory of the workers' metrics files (``events.py``)
    :param accept: the scraper's ``Accept`` field: OpenMetrics 1.0 if that is named first, otherwise Prometheus's text
    """
    registry = CollectorRegistry()
    registry.register(TableCollector(state))
    registry.register(WorkerFiles(multiproc_dir, state.registry))
    if _prefers_openmetrics(accept):
        encode = openmetrics.generate_latest
        body: bytes = encode(_Unambiguous(registry))  # type: ignore[no-untyped-call]  # prometheus-client leaves it untyped
        return body, openmetrics.CONTENT_TYPE_LATEST
    return plain_text(registry.collect()), CONTENT_TYPE


class _Unambiguous(Collector):
    """Metrics with names that are valid in OpenMetrics.

    OpenMetrics names a counter without ``_total``, and no two metrics may share a name. A counter whose name would
    clash with a gauge therefore keeps its suffix, as a metric of unknown type. Its samples are unchanged.
    """

    def __init__(self, inner: Collector) -> None:
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        """All metrics of the inner collector, in order."""
        families = list(self._inner.collect())
        taken = {family.name for family in families if family.type != "counter"}
        for family in families:
            if family.type == "counter" and family.name in taken:
                renamed = Metric(f"{family.name}_total", family.documentation, "unknown")
                renamed.samples = [sample for sample in family.samples if sample.name == renamed.name]
                yield renamed
            else:
                yield family


class TableCollector(Collector):
    """Metrics from the table and the supervisor's state."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Read all metrics again; called once per scrape."""
        self._state.refresh(True)
        rows = live_rows(self._state.table, self._state.registry)
        yield self._tunnels(rows)
        yield self._idle(rows)
        yield from self._totals()
        yield from self._keepalive()
        yield self._requests()
        yield from self._backends()
        yield from self._drains(rows)
        yield from self._processes()
        yield from self._configuration()
        yield from self._certificates()
        yield from self._credentials()
        yield from self._rebalanced()

    def _tunnels(self, rows: list[LiveRow]) -> Metric:
        registry, config = self._state.registry, self._state.config
        counts: Counter[tuple[str, str]] = Counter()
        for route in config.routes:
            for share in route.shares():
                for backend in self._state.backends_of(config, share.name):
                    counts[route.name, str(backend.address)] = 0
        for (route_number, backend_number), count in Counter((row.route, row.backend) for row in rows).items():
            counts[registry.routes[route_number], registry.backends[backend_number][1]] += count
        metric = GaugeMetricFamily("gateway_tunnels", "Tunnels open now", labels=("route", "backend"))
        for labels, count in counts.items():
            metric.add_metric(labels, count)
        return metric

    def _idle(self, rows: list[LiveRow]) -> Metric:
        metric = GaugeHistogramMetricFamily(
            "gateway_tunnel_idle_seconds",
            "Tunnels open now, by how long neither side has sent a byte",
            labels=("route",),
        )
        routes = list(self._state.registry.routes)
        configured = {route.name for route in self._state.config.routes}
        for name, idle in zip(routes, idle_by_route(rows, len(routes)), strict=True):
            if idle.tunnels or name in configured:
                buckets = list(zip(_LE, idle.cumulative, strict=True))
                metric.add_metric((name,), buckets, idle.sum_ns / NS)
        return metric

    def _totals(self) -> Iterator[Metric]:
        relayed_bytes = CounterMetricFamily(
            "gateway_relayed_bytes", "Bytes read from tunnels' sockets", labels=("route", "direction")
        )
        frames = CounterMetricFamily(
            "gateway_relayed_frames", "WebSocket frames relayed", labels=("route", "direction", "opcode")
        )
        violations = CounterMetricFamily(
            "gateway_protocol_violations",
            "Streams that broke RFC 6455; relayed as they are, for the endpoints to judge",
            labels=("route", "direction"),
        )
        for name, side, total, _ in self._blocks():
            direction = DIRECTIONS[side]
            relayed_bytes.add_metric((name, direction), total[T_BYTES])
            violations.add_metric((name, direction), total[T_VIOLATIONS])
            for opcode, cell in _OPCODES.items():
                frames.add_metric((name, direction, opcode), total[T_FRAMES + cell])
        yield relayed_bytes
        yield frames
        yield violations
        faults = CounterMetricFamily(
            "gateway_tunnel_faults", "Tunnels ended because of an error in the gateway itself", labels=("route",)
        )
        for number, name in enumerate(list(self._state.registry.routes)):
            faults.add_metric((name,), self._state.table.faults(number))
        yield faults

    def _keepalive(self) -> Iterator[Metric]:
        labels = ("route", "side")
        pings = CounterMetricFamily("gateway_keepalive_pings_sent", "Pings sent by the gateway itself", labels=labels)
        pongs = CounterMetricFamily("gateway_keepalive_pongs_received", "Pongs that answered them", labels=labels)
        timeouts = CounterMetricFamily(
            "gateway_keepalive_timeouts", "Sides that sent nothing within the time-out after a Ping", labels=labels
        )
        gaps = HistogramMetricFamily(
            "gateway_idle_gap_seconds", "Silences of a second or more that ended in activity", labels=labels
        )
        rtts = HistogramMetricFamily("gateway_keepalive_rtt_seconds", "From each Ping to its Pong", labels=labels)
        interval = GaugeMetricFamily(
            "gateway_keepalive_interval_seconds",
            "Silence after which a Ping is sent: the shortest in force, if networks differ",
            labels=labels,
        )
        cutoff = GaugeMetricFamily("gateway_learned_cutoff_seconds", "Shortest silence known to be cut", labels=labels)
        config = self._state.config
        configured = {route.name: route for route in config.routes}
        for name, side, total, blocks in self._blocks():
            key = (name, SIDES[side])
            pings.add_metric(key, total[T_PINGS])
            pongs.add_metric(key, total[T_PONGS])
            timeouts.add_metric(key, total[T_TIMEOUTS])
            gaps.add_metric(key, *_histogram(total[T_GAPS:T_RTT_SUM_NS], GAP_BOUNDS_NS, total[T_GAPS_SUM_NS]))
            rtts.add_metric(key, *_histogram(total[T_RTTS:TOTAL_CELLS], RTT_BOUNDS_NS, total[T_RTT_SUM_NS]))
            if name in configured:
                now = keepalive_now(blocks, side, config, configured[name])
                for metric, seconds in ((interval, now.interval_seconds), (cutoff, now.learned_cutoff_seconds)):
                    if seconds is not None:
                        metric.add_metric(key, seconds)
        yield from (pings, pongs, timeouts, gaps, rtts, interval, cutoff)

    def _blocks(self) -> Iterator[tuple[str, int, list[int], list[list[int]]]]:
        """Yield route, side, the sum of the workers' totals, and each worker's own totals."""
        for number, name in enumerate(list(self._state.registry.routes)):
            for side in range(2):
                blocks = blocks_of(self._state.table, number, side)
                yield name, side, summed(blocks), blocks

    def _requests(self) -> Metric:
        metric = GaugeMetricFamily("gateway_http_requests", "Plain requests in flight", labels=("route",))
        configured = {route.name for route in self._state.config.routes}
        for number, name in enumerate(list(self._state.registry.routes)):
            in_flight = self._state.table.requests(number)
            if in_flight or name in configured:
                metric.add_metric((name,), in_flight)
        return metric

    def _backends(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "gateway_backend_up",
            "1 unless the backend is down by its health checks; without those, if the latest connection succeeded",
            labels=("upstream", "backend"),
        )
        drained = GaugeMetricFamily(
            "gateway_backend_drained",
            "1 if the backend is drained and gets nothing new",
            labels=("upstream", "backend"),
        )
        idle = GaugeMetricFamily(
            "gateway_backend_connections_idle",
            "Idle connections to the backend, kept for plain requests",
            labels=("upstream", "backend"),
        )
        config = self._state.config
        ejected = GaugeMetricFamily(
            "gateway_backend_ejected",
            "1 while the backend gets nothing new because requests or handshakes failed there",
            labels=("upstream", "backend"),
        )
        labels = ("upstream", "backend", "result")
        checks = CounterMetricFamily(
            "gateway_backend_health_checks", "Health checks of the backend: passed, failed or timeout", labels=labels
        )
        ejections = CounterMetricFamily(
            "gateway_backend_ejections",
            "Times the backend was ejected, or was not (prevented) as half of the backends were out already",
            labels=labels,
        )
        for name, upstream in config.upstreams.items():
            for backend in self._state.backends_of(config, name):
                address = str(backend.address)
                number = self._state.registry.backend(name, address)
                idle.add_metric((name, address), self._state.table.idle_connections(number))
                state = self._state.backend_states.get(number)
                up.add_metric((name, address), is_up(self._state, number))
                if upstream.health_check is not None:
                    for result in CHECK_RESULTS:
                        checks.add_metric((name, address, result), self._state.health_checks[name, address, result])
                if upstream.eject is not None:
                    for result in EJECTION_RESULTS:
                        ejections.add_metric((name, address, result), self._state.ejections[name, address, result])
                ejected.add_metric((name, address), state is not None and state.ejected_until_unix is not None)
                drained.add_metric((name, address), backend.drain or number in self._state.drained_backends)
        yield up
        yield drained
        yield ejected
        yield checks
        yield ejections
        yield idle
        errors = CounterMetricFamily(
            "gateway_discovery_errors",
            "Attempts to find backends of the upstream that failed; the last answer stays in use",
            labels=("upstream",),
        )
        for name, upstream in config.upstreams.items():
            if upstream.discover is not None:
                errors.add_metric((name,), self._state.discovery_errors[name])
        yield errors

    def _drains(self, rows: list[LiveRow]) -> Iterator[Metric]:
        state = self._state
        yield GaugeMetricFamily(
            "gateway_draining", "1 while the gateway drains before it exits", state.drain is not None
        )
        left = sum(state.drain is not None or row.backend in state.drained_backends for row in rows)
        yield GaugeMetricFamily("gateway_drain_tunnels_left", "Tunnels open now that a drain is to close", left)

    def _processes(self) -> Iterator[Metric]:
        state, table = self._state, self._state.table
        running = sum(worker.pid != 0 for worker in state.workers)
        yield GaugeMetricFamily("gateway_workers", "Running worker processes", running)
        yield CounterMetricFamily(
            "gateway_worker_restarts", "Workers that died and were replaced", state.worker_restarts
        )
        yield CounterMetricFamily(
            "gateway_tunnels_adopted",
            "Tunnels that a new worker took over from one that died or was replaced",
            state.tunnels_adopted,
        )
        lost = sum(table.cells[table.worker(slot) + W_LOG_LINES_LOST] for slot in range(table.slots))
        yield CounterMetricFamily(
            "gateway_access_log_lines_lost", "Access-log lines dropped because they could not be written", lost
        )

    def _configuration(self) -> Iterator[Metric]:
        state = self._state
        yield GaugeMetricFamily(
            "gateway_config_last_reload_successful",
            "1 if the latest reload of the configuration succeeded",
            state.last_reload_ok,
        )
        yield GaugeMetricFamily(
            "gateway_config_last_reload_success_timestamp_seconds",
            "When a configuration was last applied",
            state.last_reload_unix,
        )
        build = {"version": VERSION, "python": platform.python_version(), "relay": relay_build()}
        yield InfoMetricFamily("gateway_build", "What runs", build)

    def _certificates(self) -> Iterator[Metric]:
        expiry = GaugeMetricFamily(
            "gateway_tls_certificate_expiry_timestamp_seconds",
            "When a listener's certificate expires",
            labels=("certificate",),
        )
        errors = CounterMetricFamily(
            "gateway_tls_certificate_errors",
            "Times that a listener's certificate could not be read again; the previous one stayed in use",
            labels=("certificate",),
        )
        for certificate in self._state.certificates:
            expiry.add_metric((certificate.file,), certificate.expires_unix)
            errors.add_metric((certificate.file,), self._state.certificate_errors.get(certificate.file, 0))
        yield expiry
        yield errors

    def _rebalanced(self) -> Iterator[Metric]:
        tunnels = CounterMetricFamily(
            "gateway_rebalanced_tunnels",
            "Tunnels that a rebalance was to move from a backend: closed in their turn, or ended by themselves before",
            labels=("upstream", "backend", "result"),
        )
        config = self._state.config
        counts = {
            (name, str(backend.address), result): 0
            for name in config.upstreams
            for backend in self._state.backends_of(config, name)
            for result in (CLOSED, ENDED)
        }
        counts.update(self._state.rebalanced)
        for labels, count in counts.items():
            tunnels.add_metric(labels, count)
        yield tunnels

    def _credentials(self) -> Iterator[Metric]:
        errors = CounterMetricFamily(
            "gateway_credential_file_errors",
            "Times that a file of users or keys could not be read again; what was there before stayed in use",
            labels=("file",),
        )
        files = {each.source: 0 for each in self._state.credentials if not is_url(each.source)}
        for path, count in {**files, **self._state.credential_errors}.items():
            errors.add_metric((path,), count)
        yield errors
        fetches = CounterMetricFamily(
            "gateway_key_set_fetches",
            "Attempts to fetch a route's key set; while they fail, the keys from before stay in use",
            labels=("route", "result"),
        )
        for (route, fetched), count in list(self._state.key_set_fetches.items()):
            fetches.add_metric((route, "fetched" if fetched else "failed"), count)
        yield fetches


def _histogram(counts: list[int], bounds_ns: Sequence[int], sum_ns: int) -> tuple[list[tuple[str, float]], float]:
    """Return buckets and sum in seconds, as prometheus-client expects them. :param counts: one more than bounds"""
    les = [*(str(bound / NS) for bound in bounds_ns), "+Inf"]
    return list(zip(les, map(float, accumulate(counts)), strict=True)), sum_ns / NS


class WorkerFiles(Collector):
    """Metrics that the workers keep in files, summed over all workers."""

    def __init__(self, directory: str, registry: Registry) -> None:
        """:param registry: backends that have no number any more are left out: they are gone, with their tunnels"""
        self._directory = Path(directory)
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """Merge the files. One that cannot be read is logged and left out."""
        # A file that was just created is still empty, which prometheus-client cannot read.
        files = [str(file) for file in sorted(self._directory.glob("*.db")) if _size(file)]
        try:
            metrics = _merge(files)
        except _UNREADABLE:
            metrics = _merge([file for file in files if _is_readable(file)])
        known = set(self._registry.backends)
        for metric in metrics:
            metric.samples = [sample for sample in metric.samples if _is_known(sample.labels, known)]
            yield metric


def _is_known(labels: Mapping[str, str], backends: Collection[BackendKey]) -> bool:
    return "backend" not in labels or (labels["upstream"], labels["backend"]) in backends


# What prometheus-client raises for a file that is missing or malformed.
_UNREADABLE = (OSError, ValueError, RuntimeError, struct.error)


def _merge(files: list[str]) -> Iterable[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # as above
    return merged


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _is_readable(file: str) -> bool:
    try:
        list(MmapedDict.read_all_values_from_file(file))  # type: ignore[no-untyped-call]  # as above
        _merge([file])
    except _UNREADABLE as error:
        log.error("metrics: skipped %s, which cannot be read: %s", os.path.basename(file), error)
        return False
    return True


def _prefers_openmetrics(accept: str) -> bool:
    # Scrapers list their preferred type first. prometheus-client's own choice would echo the field in the answer.
    for entry in accept.split(","):
        media_type = entry.partition(";")[0].strip().lower()
        if media_type in ("application/openmetrics-text", "text/plain"):
            return media_type == "application/openmetrics-text"
    return False
