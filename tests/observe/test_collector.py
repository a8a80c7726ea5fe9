"""What a scrape says of tunnels, and that it disturbs nobody."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.observe.collector import render
from gateway.observe.live import live_rows, still_holds
from gateway.protocol.scanner_state import PING, TEXT
from gateway.tunnels.layout import (
    B_LIVE,
    CELL_BYTES,
    LAST_NS,
    ROUTE,
    ROW_CELLS,
    SIDE_0,
    T_BYTES,
    T_FRAMES,
    T_VIOLATIONS,
    TOTAL_CELLS,
    W_ADOPTED,
    W_LOG_LINES_LOST,
)

from .gateways import CONFIG, FakeGateway, samples, worker_file

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
    body, _ = render(gateway.state, str(tmp_path), "application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families["gateway_tunnel_idle_seconds"].type == "gaugehistogram"
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
    assert len(reads) == 9


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
