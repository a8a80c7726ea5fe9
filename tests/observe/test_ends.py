"""What is told of a tunnel that has ended: its line in the access log, and its metrics."""

import asyncio
import json
import time

import pytest

from gateway.observe.access_log import AccessLog
from gateway.observe.batch import Batch
from gateway.observe.ends import Ends, tunnel_id
from gateway.observe.events import Events
from gateway.protocol.scanner_state import CLOSE_CODE, CLOSED, FRAMES, NO_STATUS, OPEN, STATUS
from gateway.routing.registry import Registry
from gateway.tunnels.table.layout import (
    BYTES,
    CAUSE,
    CAUSES,
    CLOSE_CODE_SENT,
    CLOSING_NS,
    END_IDLE_NS,
    END_QUEUED,
    END_QUIET_NS,
    END_SIDE,
    INITIATOR,
    INITIATORS,
    KIND,
    LAST_NS,
    OPAQUE,
    OPENED_NS,
    PONG_NS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    SILENCE_NS,
    TRUNCATED,
    WEBSOCKET,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

SECOND = 10**9
CLIENT, BACKEND = SIDE_0, SIDE_0 + SIDE_CELLS


class Gateway:
    """A table with one tunnel in it, and those who are told of its end."""

    def __init__(self, path):
        self.table = Table.create(workers=1, max_tunnels=4)
        self.slice = Slice(self.table, 0)
        self.events = Events()
        self.batch = Batch(asyncio.get_running_loop())
        registry = Registry(10, 10, ["other", "chat"], [("chat", "a:1"), ("chat", "b:1")])
        self.ends = Ends(self.table, registry, self.events, self.batch)
        self.path = path
        self.log = AccessLog(str(path), "json", print)
        self.row = self.slice.allocate(1, 1)
        now = time.monotonic_ns()
        self.set({OPENED_NS: now - 90 * SECOND, INITIATOR: 0, CAUSE: 0})
        self.set({CLIENT + LAST_NS: now - 2 * SECOND, BACKEND + LAST_NS: now - 60 * SECOND})

    def set(self, cells):
        for cell, value in cells.items():
            self.table.cells[self.row + cell] = value

    def end(self, initiator, cause, about=None, idle=(2, 60), quiet=(2, 60), queued=(0, 0), unanswered=(0, 0)):
        """Have the end begin, and go on for three seconds.

        Args:
            about: the side that it is about.
            idle, quiet, queued, unanswered: of the client and of the backend, as the relay takes them down: seconds
                that nothing had come from the side, seconds that nothing had gone either way on its connection, bytes
                pending for it, seconds of the longest silence before something that it has not answered.
        """
        now = time.monotonic_ns()
        about = -1 if about is None else SIDES.index(about)
        self.set({INITIATOR: INITIATORS.index(initiator), CAUSE: CAUSES.index(cause), END_SIDE: about})
        self.set({CLOSING_NS: now - 3 * SECOND})
        for side, at in enumerate((CLIENT, BACKEND)):
            self.set({at + END_IDLE_NS: int(idle[side] * SECOND), at + END_QUIET_NS: int(quiet[side] * SECOND)})
            self.set({at + END_QUEUED: queued[side], at + SILENCE_NS: int(unanswered[side] * SECOND)})
            self.set({at + LAST_NS: now})  # bytes of the end itself

    def drops(self):
        """What `gateway_drop_idle_seconds` counted: by route and side, the bounds between which, and the sum."""
        found = {}
        for family in self.events.drop_idle.collect():
            for sample in family.samples:
                key = sample.labels["route"], sample.labels["side"]
                kept = found.setdefault(key, {"bounds": [], "sum": 0})
                if sample.name.endswith("_sum"):
                    kept["sum"] = sample.value
                elif sample.name.endswith("_bucket") and sample.value:
                    kept["bounds"].append(float(sample.labels["le"]))
        return {key: (min(kept["bounds"]), kept["sum"]) for key, kept in found.items()}

    def told(self):
        """The line that is written."""
        self.ends.report(self.ends.remember(self.row), self.log)
        self.batch.flush()
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
    gateway.slice.write_texts(gateway.row, **texts)
    gateway.end("backend", "close_frame", "backend", idle=(2.5, 0), quiet=(0, 0), queued=(17, 0))
    for side, data in ((CLIENT, 100), (BACKEND, 200)):
        gateway.set({side + BYTES: data, side + SCANNER + FRAMES: data // 10, side + SCANNER + STATUS: CLOSED})
    gateway.set({CLIENT + SCANNER + CLOSE_CODE: 1000, BACKEND + SCANNER + CLOSE_CODE: 4001})
    line = gateway.told()
    assert 90 <= line.pop("duration") < 120
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
        "cut_side": None,
        "silence": None,
        "close_seen": "both",
        "truncated": None,
        "client_close_code": 1000,
        "backend_close_code": 4001,
        "gateway_close_code": None,
        "client_idle": 2.5,
        "backend_idle": 0,
        "last_direction": "backend_to_client",
        "last_age": 0,
        "client_queued": 17,
        "backend_queued": 0,
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


# --- who cut what, and after how long a silence --------------------------------------------------------------------

CUTS = {
    # A side's connection ended by itself: after just the silence of that connection, whatever the other one did.
    "a client's FIN": (
        ("client", "fin", "client"),
        {"idle": (300, 60.004), "quiet": (60.004, 10)},
        ("client", 60.004, 100),
    ),
    "a backend's reset": (
        ("backend", "reset", "backend"),
        {"idle": (400, 350), "quiet": (400, 350)},
        ("backend", 350, 350),
    ),
    "a FIN that answers what was just sent": (
        ("backend", "fin", "backend"),
        {"idle": (0, 90), "quiet": (0, 0.001), "unanswered": (0, 90)},
        ("backend", 0.001, 5),
    ),
    # It only showed when something was sent: the cut came within the silence before that.
    "a reset that answers data": (
        ("backend", "reset", "backend"),
        {"idle": (0, 90), "quiet": (0, 0.001), "unanswered": (0, 90)},
        ("backend", 90, 100),
    ),
    "a Ping that is never answered": (
        ("gateway", "ping_timeout", "client"),
        {"idle": (45, 3), "quiet": (20, 3), "unanswered": (25, 0)},
        ("client", 25, 25),
    ),
    "bytes that nobody acknowledges": (
        ("gateway", "write_stall", "backend"),
        {"idle": (62, 4000), "quiet": (62, 62), "unanswered": (0, 3938)},
        ("backend", 3938, float("inf")),
    ),
}


@pytest.mark.parametrize("case", CUTS)
async def test_a_side_that_was_cut(gateway, case):
    end, observed, (side, silence, bound) = CUTS[case]
    gateway.end(*end, **observed)
    line = gateway.told()
    assert (line["initiator"], line["cause"]) == end[:2]
    assert (line["cut_side"], line["silence"]) == (side, silence)
    assert line["close_seen"] is None
    assert gateway.drops() == {("chat", side): (bound, pytest.approx(silence))}


NO_CUTS = {
    "a Close frame": (("client", "close_frame", "client"), {}),
    "a Close of the gateway's own for its age": (("gateway", "max_lifetime", None), {}),
    "a Close of the gateway's own for want of data": (("gateway", "idle", None), {}),
    "the end of the gateway": (("gateway", "drain", None), {}),
    "a slow reader": (("gateway", "write_stall", "client"), {"queued": (131072, 0)}),
    "the death of a worker": (("gateway", "worker_lost", None), {}),
}


@pytest.mark.parametrize("case", NO_CUTS)
async def test_an_end_that_cut_nobody(gateway, case):
    end, observed = NO_CUTS[case]
    gateway.end(*end, **observed)
    line = gateway.told()
    assert (line["initiator"], line["cause"]) == end[:2]
    assert (line["cut_side"], line["silence"]) == (None, None)
    assert gateway.drops() == {}


@pytest.mark.parametrize("side", SIDES)
async def test_a_reset_behind_a_close_frame_is_a_close(gateway, side):
    gateway.end(side, "reset", side)
    gateway.set({(CLIENT, BACKEND)[SIDES.index(side)] + SCANNER + STATUS: CLOSED})
    line = gateway.told()
    assert (line["initiator"], line["cause"], line["cut_side"], line["close_seen"]) == (side, "close_frame", None, side)
    assert gateway.counted(gateway.events.closed) == {("chat", side, "close_frame"): 1}
    assert gateway.drops() == {}


@pytest.mark.parametrize(
    ("client", "backend", "seen"),
    [(OPEN, OPEN, None), (CLOSED, OPEN, "client"), (OPEN, CLOSED, "backend"), (CLOSED, CLOSED, "both")],
)
async def test_whose_close_was_seen(gateway, client, backend, seen):
    gateway.end("client", "close_frame", "client")
    gateway.set({CLIENT + SCANNER + STATUS: client, BACKEND + SCANNER + STATUS: backend})
    assert gateway.told()["close_seen"] == seen


@pytest.mark.parametrize(("sides", "said"), [(0, None), (1, "client"), (2, "backend"), (3, "both")])
async def test_which_side_ended_without_close_notify(gateway, sides, said):
    gateway.end("client", "fin", "client")
    gateway.set({TRUNCATED: sides})
    assert gateway.told()["truncated"] == said


async def test_silences_are_those_of_when_the_end_began(gateway):
    gateway.end("client", "fin", "client", idle=(7.25, 60.5), queued=(0, 4096))
    line = gateway.told()
    assert (line["client_idle"], line["backend_idle"]) == (7.25, 60.5)
    assert (line["last_direction"], line["last_age"]) == ("client_to_backend", 7.25)
    assert (line["client_queued"], line["backend_queued"]) == (0, 4096)


async def test_where_nobody_saw_the_end_silences_last_until_it_is_told(gateway):
    """The worker died; a Pong to it is a sign of life like any other."""
    gateway.set({INITIATOR: INITIATORS.index("gateway"), CAUSE: CAUSES.index("worker_lost")})
    gateway.set({BACKEND + PONG_NS: time.monotonic_ns() - SECOND})
    line = gateway.told()
    assert 2 <= line["client_idle"] < 30
    assert 1 <= line["backend_idle"] < line["client_idle"]
    assert line["last_direction"] == "backend_to_client"
    assert line["last_age"] == line["backend_idle"]


# --- causes, codes, counters ---------------------------------------------------------------------------------------


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
    gateway.ends.report(gateway.ends.remember(gateway.row), AccessLog(None, "json", print))
    gateway.batch.flush()
    assert gateway.counted(gateway.events.closed) == {("chat", "client", "close_frame"): 1}


async def test_ids_of_two_tunnels_differ(gateway):
    cells = gateway.table.cells
    second = gateway.slice.allocate(0, 0)
    assert tunnel_id(cells[gateway.row + 1]) != tunnel_id(cells[second + 1])
