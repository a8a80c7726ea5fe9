"""What is told of a tunnel that has ended: its line in the access log, and its metrics."""

import json
import time

import pytest

from gateway.observe.access_log import AccessLog
from gateway.observe.ends import Ends, tunnel_id
from gateway.observe.events import Events
from gateway.protocol.scanner_state import CLOSE_CODE, CLOSED, FRAMES, NO_STATUS, OPEN, STATUS
from gateway.routing.registry import Registry
from gateway.tunnels.layout import (
    BYTES,
    CAUSE,
    CAUSES,
    CLOSE_CODE_SENT,
    INITIATOR,
    INITIATORS,
    KIND,
    LAST_NS,
    OPAQUE,
    OPENED_NS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    WEBSOCKET,
)
from gateway.tunnels.table import Slice, Table

SECOND = 10**9
CLIENT, BACKEND = SIDE_0, SIDE_0 + SIDE_CELLS


class Gateway:
    """A table with one tunnel in it, and those who are told of its end."""

    def __init__(self, path):
        self.table = Table.create(workers=1, max_tunnels=4)
        self.slice = Slice(self.table, 0)
        self.events = Events()
        registry = Registry(10, 10, ["other", "chat"], [("chat", "a:1"), ("chat", "b:1")])
        self.ends = Ends(self.table, registry, self.events)
        self.path = path
        self.log = AccessLog(str(path), "json", print)
        self.row = self.slice.allocate(1, 1)
        now = time.monotonic_ns()
        self.set({OPENED_NS: now - 90 * SECOND, INITIATOR: 0, CAUSE: 0})
        self.set({CLIENT + LAST_NS: now - 2 * SECOND, BACKEND + LAST_NS: now - 60 * SECOND})

    def set(self, cells):
        for cell, value in cells.items():
            self.table.cells[self.row + cell] = value

    def told(self):
        """The line that is written."""
        self.ends.tell(self.ends.remember(self.row), self.log)
        self.log.close()
        (line,) = self.path.read_text().splitlines()
        return json.loads(line)

    def counted(self, metric):
        """Samples of a metric that are not zero, by their labels' values."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in metric.collect()
            for sample in family.samples
            if sample.name.endswith(("_total", "_count", "_sum")) and sample.value
        }


@pytest.fixture
async def gateway(tmp_path):
    made = Gateway(tmp_path / "access.log")
    yield made
    made.log.close()
    made.table.close()


async def test_the_line(gateway):
    texts = {"client": b"192.0.2.7:5", "host": b"a", "path": b"/ws", "subprotocol": b"mqtt", "request_id": b"abc"}
    gateway.slice.write_texts(gateway.row, texts)
    gateway.set({INITIATOR: INITIATORS.index("backend"), CAUSE: CAUSES.index("close_frame")})
    for side, data in ((CLIENT, 100), (BACKEND, 200)):
        gateway.set({side + BYTES: data, side + SCANNER + FRAMES: data // 10, side + SCANNER + STATUS: CLOSED})
    gateway.set({CLIENT + SCANNER + CLOSE_CODE: 1000, BACKEND + SCANNER + CLOSE_CODE: 4001})
    line = gateway.told()
    assert 90 <= line.pop("duration") < 120
    assert 2 <= line.pop("client_idle") < 30
    assert 60 <= line.pop("backend_idle") < 90
    del line["time"]
    assert line == {
        "event": "tunnel_end",
        "id": "1",
        "request_id": "abc",
        "client": "192.0.2.7:5",
        "route": "chat",
        "backend": "b:1",
        "host": "a",
        "path": "/ws",
        "subprotocol": "mqtt",
        "initiator": "backend",
        "cause": "close_frame",
        "client_close_code": 1000,
        "backend_close_code": 4001,
        "gateway_close_code": None,
        "client_bytes": 100,
        "backend_bytes": 200,
        "client_frames": 10,
        "backend_frames": 20,
    }


async def test_what_there_was_none_of_is_null(gateway):
    line = gateway.told()
    for key in ("subprotocol", "client_close_code", "backend_close_code", "gateway_close_code"):
        assert line[key] is None
    assert line["client_bytes"] == line["backend_frames"] == 0


@pytest.mark.parametrize("initiator", INITIATORS)
@pytest.mark.parametrize("cause", CAUSES)
async def test_who_and_why(gateway, initiator, cause):
    gateway.set({INITIATOR: INITIATORS.index(initiator), CAUSE: CAUSES.index(cause)})
    line = gateway.told()
    assert (line["initiator"], line["cause"]) == (initiator, cause)
    assert gateway.counted(gateway.events.closed) == {("chat", initiator, cause): 1}


async def test_a_close_of_the_gateways_own(gateway):
    gateway.set({CLOSE_CODE_SENT: 1012})
    line = gateway.told()
    assert line["gateway_close_code"] == 1012
    assert gateway.counted(gateway.events.close_codes) == {
        ("chat", "client", "none"): 1,
        ("chat", "backend", "none"): 1,
    }


@pytest.mark.parametrize(
    ("status", "code", "label", "in_line"),
    [
        (CLOSED, 1001, "1001", 1001),
        (CLOSED, NO_STATUS, "1005", 1005),
        (CLOSED, 3999, "3xxx", 3999),
        (CLOSED, 4000, "4xxx", 4000),
        (CLOSED, 65535, "other", 65535),
        (OPEN, 0, "none", None),
        (OPEN, 1001, "none", None),  # the frame was cut off within its reason
    ],
)
@pytest.mark.parametrize("side", SIDES)
async def test_close_codes(gateway, side, status, code, label, in_line):
    scanner = SIDE_0 + SIDES.index(side) * SIDE_CELLS + SCANNER
    gateway.set({scanner + STATUS: status, scanner + CLOSE_CODE: code})
    assert gateway.told()[f"{side}_close_code"] == in_line
    other = SIDES[1 - SIDES.index(side)]
    assert gateway.counted(gateway.events.close_codes) == {("chat", side, label): 1, ("chat", other, "none"): 1}


async def test_another_protocol_has_no_close_codes(gateway):
    assert (WEBSOCKET, OPAQUE) == (0, 1)
    gateway.set({KIND: OPAQUE})
    gateway.told()
    assert gateway.counted(gateway.events.close_codes) == {}
    assert gateway.counted(gateway.events.closed) == {("chat", "client", "close_frame"): 1}


async def test_how_long_it_lived(gateway):
    duration = gateway.told()["duration"]
    samples = {
        sample.labels.get("le", sample.name): sample.value
        for family in gateway.events.tunnel_seconds.collect()
        for sample in family.samples
    }
    assert (samples["60.0"], samples["300.0"], samples["+Inf"]) == (0, 1, 1)
    assert samples["gateway_tunnel_duration_seconds_sum"] == pytest.approx(duration, abs=0.001)


async def test_without_a_log_the_metrics_are_the_same(gateway):
    gateway.ends.tell(gateway.ends.remember(gateway.row), AccessLog(None, "json", print))
    assert gateway.counted(gateway.events.closed) == {("chat", "client", "close_frame"): 1}


async def test_ids_of_two_tunnels_differ(gateway):
    cells = gateway.table.cells
    second = gateway.slice.allocate(0, 0)
    assert tunnel_id(cells[gateway.row + 1]) != tunnel_id(cells[second + 1])
