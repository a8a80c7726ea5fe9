"""What a scrape says of tunnels, and that it disturbs nobody."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.admin.collector import render
from gateway.admin.live import live_rows, still_holds
from gateway.protocol.scanner_state import PING, TEXT
from gateway.tunnels.table.layout import (
    B_LIVE,
    CELL_BYTES,
    GAP_BOUNDS_NS,
    LAST_NS,
    PONG_NS,
    ROUTE,
    ROW_CELLS,
    RTT_BOUNDS_NS,
    SIDE_0,
    SIDE_CELLS,
    T_BYTES,
    T_CUTOFF_NS,
    T_FRAMES,
    T_GAPS,
    T_GAPS_SUM_NS,
    T_INTERVAL_NS,
    T_PINGS,
    T_PONGS,
    T_RTT_SUM_NS,
    T_RTTS,
    T_TIMEOUTS,
    T_VIOLATIONS,
    TOTAL_CELLS,
    W_ADOPTED,
    W_LOG_LINES_LOST,
)

from .gateways import CONFIG, NS, FakeGateway, samples, worker_file

HANDSHAKES = json.dumps(
    ["gateway_handshakes", "gateway_handshakes_total", {"result": "upgraded", "route": "chat"}, "Handshakes"]
)
HANDSHAKES_LINE = 'gateway_handshakes_total{result="upgraded",route="chat"}'


@pytest.fixture
def gateway():
    gateway = FakeGateway()
    yield gateway
    gateway.table.close()


def scrape(gateway: FakeGateway, directory: Path) -> dict[str, float]:
    body, _ = render(gateway.state, str(directory))
    return samples(body)


# --- tunnels -------------------------------------------------------------------------------------------------------


def test_every_configured_pair_is_there_before_the_first_tunnel(gateway, tmp_path):
    found = scrape(gateway, tmp_path)
    assert {line: value for line, value in found.items() if line.startswith("gateway_tunnels{")} == {
        'gateway_tunnels{backend="127.0.0.1:9001",route="chat"}': 0,
        'gateway_tunnels{backend="chat2.internal:9001",route="chat"}': 0,
        'gateway_tunnels{backend="unix:/run/feed.sock",route="feed"}': 0,
    }
    assert found['gateway_tunnel_idle_seconds_bucket{le="+Inf",route="feed"}'] == 0


def test_tunnels_of_all_workers_are_counted_while_they_live(gateway, tmp_path):
    line = 'gateway_tunnels{backend="127.0.0.1:9001",route="chat"}'
    first = gateway.open(slot=0)
    gateway.open(slot=1)
    assert scrape(gateway, tmp_path)[line] == 2
    gateway.close(first)
    assert scrape(gateway, tmp_path)[line] == 1


def test_a_handshake_under_way_is_no_tunnel(gateway, tmp_path):
    gateway.slices[0].allocate(0, 0)
    assert gateway.table.cells[gateway.table.backend_at(0, 0) + B_LIVE] == 1
    assert scrape(gateway, tmp_path)['gateway_tunnels{backend="127.0.0.1:9001",route="chat"}'] == 0


def test_the_label_of_a_backend_that_was_configured_away_stays_until_its_last_tunnel_ends(gateway, tmp_path):
    row = gateway.open(backend=("chat", "chat2.internal:9001"))
    shorter = CONFIG.replace(', {address: "chat2.internal:9001", weight: 2}', "")
    after = FakeGateway(shorter)
    gateway.state.config = after.state.config
    after.table.close()
    line = 'gateway_tunnels{backend="chat2.internal:9001",route="chat"}'
    assert scrape(gateway, tmp_path)[line] == 1
    gateway.close(row)
    found = scrape(gateway, tmp_path)
    assert line not in found
    assert 'gateway_backend_up{backend="chat2.internal:9001",upstream="chat"}' not in found


def test_a_row_of_a_route_nobody_knows_is_left_out(gateway, tmp_path):
    gateway.table.cells[gateway.open() + ROUTE] = 77
    assert scrape(gateway, tmp_path)['gateway_tunnels{backend="127.0.0.1:9001",route="chat"}'] == 0


# --- idle ----------------------------------------------------------------------------------------------------------


def test_a_tunnel_is_idle_since_the_latest_byte_of_either_side(gateway, tmp_path):
    gateway.open(client_idle=4000, backend_idle=7, age=5000)
    gateway.open(client_idle=45, backend_idle=2000, age=5000, slot=1)
    gateway.open(client_idle=4000, backend_idle=5000, age=6000)
    found = scrape(gateway, tmp_path)
    prefix = 'gateway_tunnel_idle_seconds_bucket{le="'
    buckets = {
        line.removeprefix(prefix).partition('"')[0]: n for line, n in found.items() if "chat" in line and prefix in line
    }
    assert buckets == {
        "1.0": 0,
        "5.0": 0,
        "10.0": 1,
        "30.0": 1,
        "60.0": 2,
        "120.0": 2,
        "300.0": 2,
        "600.0": 2,
        "1800.0": 2,
        "3600.0": 2,
        "+Inf": 3,
    }
    assert found['gateway_tunnel_idle_seconds_gcount{route="chat"}'] == 3
    assert found['gateway_tunnel_idle_seconds_gsum{route="chat"}'] == pytest.approx(4052, abs=5)


def test_a_pong_to_the_gateway_ends_a_silence_like_any_byte(gateway, tmp_path):
    row = gateway.open(client_idle=400, backend_idle=400, age=500)
    over_a_minute = 'gateway_tunnel_idle_seconds_bucket{le="60.0",route="chat"}'
    assert scrape(gateway, tmp_path)[over_a_minute] == 0
    gateway.table.cells[row + SIDE_0 + SIDE_CELLS + PONG_NS] = time.monotonic_ns() - 20 * NS
    found = scrape(gateway, tmp_path)
    assert found[over_a_minute] == 1
    assert found['gateway_tunnel_idle_seconds_gsum{route="chat"}'] == pytest.approx(20, abs=5)


# --- totals --------------------------------------------------------------------------------------------------------


def test_totals_are_summed_over_workers_for_each_direction(gateway, tmp_path):
    cells, table = gateway.table.cells, gateway.table
    for slot in range(2):
        from_client = table.totals_at(slot, 0)
        from_backend = from_client + TOTAL_CELLS
        cells[from_client + T_BYTES] = 100 + slot
        cells[from_client + T_FRAMES + TEXT] = 7
        cells[from_backend + T_BYTES] = 1000
        cells[from_backend + T_FRAMES + PING] = 3
        cells[from_backend + T_VIOLATIONS] = slot
    found = scrape(gateway, tmp_path)
    assert found['gateway_relayed_bytes_total{direction="client_to_backend",route="chat"}'] == 201
    assert found['gateway_relayed_bytes_total{direction="backend_to_client",route="chat"}'] == 2000
    assert found['gateway_relayed_bytes_total{direction="client_to_backend",route="feed"}'] == 0
    frames = 'gateway_relayed_frames_total{direction="%s",opcode="%s",route="chat"}'
    assert found[frames % ("client_to_backend", "text")] == 14
    assert found[frames % ("client_to_backend", "ping")] == 0
    assert found[frames % ("backend_to_client", "ping")] == 6
    assert found['gateway_protocol_violations_total{direction="backend_to_client",route="chat"}'] == 1


def test_totals_stay_when_tunnels_end(gateway, tmp_path):
    row = gateway.open()
    gateway.table.cells[gateway.table.totals_at(0, 0) + T_BYTES] = 5
    gateway.close(row)
    assert scrape(gateway, tmp_path)['gateway_relayed_bytes_total{direction="client_to_backend",route="chat"}'] == 5


# --- keepalive -----------------------------------------------------------------------------------------------------


def histogram(found: dict[str, float], name: str, side: str, route: str = "chat") -> tuple[dict[str, float], float]:
    """Buckets by their ``le``, and the sum."""
    labels = f'route="{route}",side="{side}"'
    start, end = f'{name}_bucket{{le="', f'",{labels}}}'
    buckets = {
        line.removeprefix(start).removesuffix(end): value
        for line, value in found.items()
        if line.startswith(start) and line.endswith(end)
    }
    assert buckets["+Inf"] == found[f"{name}_count{{{labels}}}"]
    return buckets, found[f"{name}_sum{{{labels}}}"]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("gateway_keepalive_pings_sent_total", T_PINGS),
        ("gateway_keepalive_pongs_received_total", T_PONGS),
        ("gateway_keepalive_timeouts_total", T_TIMEOUTS),
    ],
)
def test_pings_and_what_became_of_them_are_counted_for_each_side(gateway, tmp_path, name, cell):
    for slot in range(2):
        gateway.note(slot, "client", {cell: 10 + slot})
        gateway.note(slot, "backend", {cell: 100 + slot})
    found = {line: value for line, value in scrape(gateway, tmp_path).items() if line.startswith(name)}
    assert found == {
        f'{name}{{route="chat",side="client"}}': 21,
        f'{name}{{route="chat",side="backend"}}': 201,
        f'{name}{{route="feed",side="client"}}': 0,
        f'{name}{{route="feed",side="backend"}}': 0,
    }


@pytest.mark.parametrize(
    ("name", "first", "total", "bounds"),
    [
        ("gateway_idle_gap_seconds", T_GAPS, T_GAPS_SUM_NS, GAP_BOUNDS_NS),
        ("gateway_keepalive_rtt_seconds", T_RTTS, T_RTT_SUM_NS, RTT_BOUNDS_NS),
    ],
)
def test_histograms_of_the_table(gateway, tmp_path, name, first, total, bounds):
    # One in the first bucket, two in the second, ...; the last has what is longer than every bound.
    counts = {first + at: at + 1 for at in range(len(bounds) + 1)}
    gateway.note(0, "client", {**counts, total: 7_250_000_000})
    gateway.note(1, "client", {first + 1: 10, total: 1_000_000_000})
    buckets, summed = histogram(scrape(gateway, tmp_path), name, "client")
    cumulative = [(at + 1) * (at + 2) // 2 + (10 if at else 0) for at in range(len(bounds) + 1)]
    assert buckets == dict(zip([*(str(bound / NS) for bound in bounds), "+Inf"], cumulative, strict=True))
    assert summed == 8.25
    for side, route in (("backend", "chat"), ("client", "feed")):
        buckets, summed = histogram(scrape(gateway, tmp_path), name, side, route)
        assert set(buckets.values()) == {0}
        assert summed == 0


def test_bounds_of_the_tables_histograms(gateway, tmp_path):
    found = scrape(gateway, tmp_path)
    gaps, _ = histogram(found, "gateway_idle_gap_seconds", "client")
    assert [float(le) for le in gaps][:-1] == [2, 5, 10, 25, 30, 55, 60, 100, 120, 240, 300, 350, 600, 1800, 3600]
    rtts, _ = histogram(found, "gateway_keepalive_rtt_seconds", "client")
    assert [float(le) for le in rtts][:-1] == [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]


def test_histograms_outlive_tunnels_and_workers(gateway, tmp_path):
    row = gateway.open()
    gateway.note(1, "backend", {T_GAPS: 3, T_GAPS_SUM_NS: 4 * NS, T_RTTS + 2: 5, T_RTT_SUM_NS: NS // 100})
    before = scrape(gateway, tmp_path)
    gateway.close(row)
    gateway.stop(1)
    gateway.start(1)
    after = scrape(gateway, tmp_path)
    for name in ("gateway_idle_gap_seconds", "gateway_keepalive_rtt_seconds"):
        assert histogram(after, name, "backend") == histogram(before, name, "backend")
        assert histogram(after, name, "backend")[0]["+Inf"] in (3, 5)


INTERVALS = 'gateway_keepalive_interval_seconds{route="%s",side="%s"}'
CUTOFFS = 'gateway_learned_cutoff_seconds{route="%s",side="%s"}'
ADAPTIVE = """\
keepalive: {client: {ping_after: adaptive, min: 5s, max: 4m}, backend: {ping_after: 40s}}
listen: [{address: "0.0.0.0:8080"}]
upstreams: {any: {backends: ["127.0.0.1:9001"]}}
routes:
  - {name: chat, match: {path: /ws/}, upstream: any}
  - {name: near, match: {path: /near/}, upstream: any, keepalive: {client: {max: 12s}, backend: off}}
  - {name: feed, upstream: any, keepalive: {client: {ping_after: off}}}
"""


def gauges(found: dict[str, float], name: str) -> dict[str, float]:
    return {line: value for line, value in found.items() if line.startswith(name.partition("{")[0])}


@pytest.fixture
def adaptive():
    gateway = FakeGateway(ADAPTIVE)
    yield gateway
    gateway.table.close()


def test_the_interval_in_force_is_the_shortest_of_all_workers(adaptive, tmp_path):
    adaptive.note(0, "client", {T_INTERVAL_NS: 48 * NS})
    adaptive.note(1, "client", {T_INTERVAL_NS: 31_500_000_000})
    assert scrape(adaptive, tmp_path)[INTERVALS % ("chat", "client")] == 31.5
    adaptive.note(1, "client", {T_INTERVAL_NS: 0})
    assert scrape(adaptive, tmp_path)[INTERVALS % ("chat", "client")] == 48


def test_before_anything_is_learned_the_interval_is_what_a_tunnel_begins_with(adaptive, tmp_path):
    assert gauges(scrape(adaptive, tmp_path), INTERVALS) == {
        INTERVALS % ("chat", "client"): 25,
        INTERVALS % ("chat", "backend"): 40,
        INTERVALS % ("near", "client"): 12,
        INTERVALS % ("feed", "backend"): 40,
    }


def test_a_side_that_is_sent_no_pings_has_no_interval(adaptive, tmp_path):
    adaptive.note(0, "backend", {T_INTERVAL_NS: 0, T_CUTOFF_NS: 0}, "near")
    found = scrape(adaptive, tmp_path)
    assert INTERVALS % ("near", "backend") not in found
    assert INTERVALS % ("feed", "client") not in found


def test_a_cutoff_is_there_once_one_is_learned(adaptive, tmp_path):
    assert gauges(scrape(adaptive, tmp_path), CUTOFFS) == {}
    adaptive.note(0, "client", {T_CUTOFF_NS: 60 * NS})
    adaptive.note(1, "client", {T_CUTOFF_NS: 59 * NS})
    assert gauges(scrape(adaptive, tmp_path), CUTOFFS) == {CUTOFFS % ("chat", "client"): 59}


def test_a_route_that_was_configured_away_has_no_interval_but_keeps_its_counts(adaptive, tmp_path):
    adaptive.note(0, "client", {T_INTERVAL_NS: 48 * NS, T_CUTOFF_NS: 60 * NS, T_PINGS: 9}, "near")
    after = FakeGateway(ADAPTIVE.replace(ADAPTIVE.splitlines(keepends=True)[5], ""))
    adaptive.state.config = after.state.config
    after.table.close()
    found = scrape(adaptive, tmp_path)
    assert INTERVALS % ("near", "client") not in found
    assert CUTOFFS % ("near", "client") not in found
    assert found['gateway_keepalive_pings_sent_total{route="near",side="client"}'] == 9


# --- backends and processes ----------------------------------------------------------------------------------------


def test_a_backend_is_down_while_the_latest_connection_to_it_failed(gateway, tmp_path):
    line = 'gateway_backend_up{backend="127.0.0.1:9001",upstream="chat"}'
    assert scrape(gateway, tmp_path)[line] == 1
    gateway.slices[0].note_connect(0, False, 10)
    assert scrape(gateway, tmp_path)[line] == 0
    gateway.slices[1].note_connect(0, True, 20)
    assert scrape(gateway, tmp_path)[line] == 1


def test_the_supervisor_and_the_workers(gateway, tmp_path):
    gateway.stop(1)
    gateway.state.worker_restarts = 3
    gateway.state.last_reload_ok = False
    gateway.state.last_reload_unix = 1_700_000_000.5
    for slot in range(2):
        gateway.table.cells[gateway.table.worker(slot) + W_LOG_LINES_LOST] = 6
        gateway.table.cells[gateway.table.worker(slot) + W_ADOPTED] = 20
    found = scrape(gateway, tmp_path)
    assert found["gateway_workers"] == 1
    assert found["gateway_worker_restarts_total"] == 3
    assert found["gateway_tunnels_adopted_total"] == 40
    assert found["gateway_access_log_lines_lost_total"] == 12
    assert found["gateway_config_last_reload_successful"] == 0
    assert found["gateway_config_last_reload_success_timestamp_seconds"] == 1_700_000_000.5
    (build,) = [line for line in found if line.startswith("gateway_build_info{")]
    assert 'version="' in build
    assert 'python="3.' in build
    assert 'relay="compiled"' in build or 'relay="pure"' in build


# --- the workers' files --------------------------------------------------------------------------------------------


def test_what_workers_keep_in_files_is_summed(gateway, tmp_path):
    for slot in range(2):
        worker_file(tmp_path, "counter", slot, HANDSHAKES, 21.0)
    assert scrape(gateway, tmp_path)[HANDSHAKES_LINE] == 42


def test_a_file_that_a_worker_is_only_creating_is_skipped(gateway, tmp_path):
    worker_file(tmp_path, "counter", 0, HANDSHAKES, 21.0)
    (tmp_path / "counter_1.db").touch()
    assert scrape(gateway, tmp_path)[HANDSHAKES_LINE] == 21


@pytest.mark.parametrize(
    "content",
    [b"\x01", b"\xff\xff\x00\x00\x00\x00\x00\x00\xff\xff\xff\x7f", b"\x40\0\0\0\0\0\0\0\x05\0\0\0[1,2\xff" + bytes(60)],
)
def test_a_damaged_file_costs_its_own_metrics_and_no_others(gateway, tmp_path, content, caplog):
    worker_file(tmp_path, "counter", 0, HANDSHAKES, 21.0)
    (tmp_path / "counter_1.db").write_bytes(content)
    assert scrape(gateway, tmp_path)[HANDSHAKES_LINE] == 21
    assert "counter_1.db" in caplog.text


def test_no_directory_is_no_files(gateway, tmp_path):
    assert scrape(gateway, tmp_path / "gone")["gateway_workers"] == 2


# --- formats -------------------------------------------------------------------------------------------------------


HTTP_REQUESTS = json.dumps(
    ["gateway_http_requests", "gateway_http_requests_total", {"code": "200", "route": "chat"}, "Requests"]
)


def test_plain_requests_in_flight_are_not_those_that_were_answered(gateway, tmp_path):
    """Two metrics whose names differ in a suffix that OpenMetrics knows only on samples."""
    backend = gateway.state.registry.backend("chat", "127.0.0.1:9001")
    for slice_ in gateway.slices:
        slice_.begin_request(gateway.state.registry.route("chat"), backend)
        slice_.idle_connections(backend, 3)
    worker_file(tmp_path, "counter", 0, HTTP_REQUESTS, 21.0)
    expected = {
        'gateway_http_requests{route="chat"}': 2,
        'gateway_http_requests{route="feed"}': 0,
        'gateway_http_requests_total{code="200",route="chat"}': 21,
        'gateway_backend_connections_idle{backend="127.0.0.1:9001",upstream="chat"}': 6,
        'gateway_backend_connections_idle{backend="chat2.internal:9001",upstream="chat"}': 0,
        'gateway_backend_connections_idle{backend="unix:/run/feed.sock",upstream="feed"}': 0,
    }
    for accept in ("", "application/openmetrics-text"):
        body, _ = render(gateway.state, str(tmp_path), accept)
        found = samples(body)
        assert {line: value for line, value in found.items() if line.startswith(tuple(expected))} == expected
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert {name: family.type for name, family in families.items() if "http_requests" in name} == {
        "gateway_http_requests": "gauge",
        "gateway_http_requests_total": "unknown",
    }


def test_requests_of_a_route_that_was_configured_away_count_until_they_end(gateway, tmp_path):
    after = FakeGateway(CONFIG[: CONFIG.rindex("  - ")])
    gone = ({route.name for route in gateway.state.config.routes} - {r.name for r in after.state.config.routes}).pop()
    gateway.state.config = after.state.config
    after.table.close()
    number = gateway.state.registry.route(gone)
    line = f'gateway_http_requests{{route="{gone}"}}'
    gateway.slices[0].begin_request(number, 0)
    assert scrape(gateway, tmp_path)[line] == 1
    gateway.slices[0].end_request(number, 0)
    assert line not in scrape(gateway, tmp_path)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4, application/openmetrics-text", "text/plain; version=0.0.4; charset=utf-8"),
        # Prometheus 3
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ('application/openmetrics-text;version=x"y', "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_the_format_is_the_one_a_scraper_names_first(gateway, tmp_path, accept, expected):
    _, content_type = render(gateway.state, str(tmp_path), accept)
    assert content_type == expected


def test_openmetrics_is_what_its_own_parser_takes(gateway, tmp_path):
    gateway.open(client_idle=20, backend_idle=20)
    worker_file(tmp_path, "counter", 0, HANDSHAKES, 21.0)
    gateway.note(0, "client", {T_GAPS + 1: 4, T_GAPS + 3: 1, T_GAPS_SUM_NS: 30 * NS, T_RTTS: 2, T_RTT_SUM_NS: 900_000})
    gateway.note(1, "client", {T_INTERVAL_NS: 25 * NS, T_CUTOFF_NS: 60 * NS})
    body, _ = render(gateway.state, str(tmp_path), "application/openmetrics-text")
    # This parser also checks that buckets are cumulative, in order, and end in +Inf.
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families["gateway_tunnel_idle_seconds"].type == "gaugehistogram"
    assert families["gateway_idle_gap_seconds"].type == "histogram"
    assert families["gateway_keepalive_rtt_seconds"].type == "histogram"
    assert families["gateway_keepalive_interval_seconds"].type == "gauge"
    assert families["gateway_handshakes"].samples[0].value == 21


# --- what a scrape does to the table -------------------------------------------------------------------------------


def test_rows_that_were_never_used_are_not_touched(tmp_path):
    gateway = FakeGateway(max_tunnels=200_000)
    gateway.open()
    scrape(gateway, tmp_path)
    before = os.fstat(gateway.table.fd).st_blocks
    for _ in range(3):
        scrape(gateway, tmp_path)
    in_use = os.fstat(gateway.table.fd).st_blocks
    gateway.table.close()
    assert in_use == before
    assert in_use * 512 < 200_000 * CELL_BYTES


def test_a_row_that_changed_hands_is_told_apart(gateway):
    row = gateway.open()
    (found,) = live_rows(gateway.table, gateway.state.registry)
    assert still_holds(gateway.table, row, found.id)
    gateway.close(row)
    assert not still_holds(gateway.table, row, found.id)
    assert gateway.open() == row
    assert not still_holds(gateway.table, row, found.id)


def test_a_row_that_changes_hands_while_it_is_read_is_left_out(gateway, monkeypatch):
    row = gateway.open("chat")
    gateway.open("feed", ("feed", "unix:/run/feed.sock"))
    cells = gateway.table.cells
    reads = []

    class Cells:
        """The table's cells, with a worker that acts when three columns were read."""

        def __getitem__(self, key):
            if isinstance(key, slice):
                reads.append(key)
                if len(reads) == 4:
                    gateway.close(row)
                    assert gateway.open("feed", ("feed", "unix:/run/feed.sock")) == row
            return cells[key]

        def __setitem__(self, key, value):
            cells[key] = value

    monkeypatch.setattr(gateway.table, "cells", Cells())
    found = live_rows(gateway.table, gateway.state.registry)
    assert [entry.row for entry in found] == [row + ROW_CELLS]
    assert len(reads) == 11


def test_scrapes_and_workers_do_not_disturb_each_other(gateway, tmp_path):
    """Tunnels come and go on both slices; a scrape never mixes two of them."""
    stop = threading.Event()
    kinds = [("chat", ("chat", "127.0.0.1:9001"), 10), ("feed", ("feed", "unix:/run/feed.sock"), 1000)]

    def worker(slot):
        rows = []
        while not stop.is_set():
            for route, backend, idle in kinds:
                rows.append(gateway.open(route, backend, slot=slot, client_idle=idle, backend_idle=idle, age=2000))
            while len(rows) > 30:
                gateway.close(rows.pop(0))

    workers = [threading.Thread(target=worker, args=(slot,)) for slot in range(2)]
    for thread in workers:
        thread.start()
    try:
        for _ in range(50):
            for row in live_rows(gateway.table, gateway.state.registry):
                _, backend, idle = kinds[row.route]
                assert gateway.state.registry.backends[row.backend] == backend
                assert idle <= row.idle_ns / 1e9 < idle + 60
            scrape(gateway, tmp_path)
    finally:
        stop.set()
        for thread in workers:
            thread.join()


def test_clocks_of_other_processes_never_make_a_silence_negative(gateway):
    row = gateway.open()
    cells = gateway.table.cells
    cells[row + SIDE_0 + LAST_NS] = time.monotonic_ns() + 10**12
    (found,) = live_rows(gateway.table, gateway.state.registry)
    assert found.idle_ns == 0
