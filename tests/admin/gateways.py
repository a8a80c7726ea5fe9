"""A gateway with no processes: a real table, filled as workers fill it, and the state around it."""

import time
from pathlib import Path

from gateway.admin.operations import NotDone
from gateway.admin.rebalances import BackendShare, RebalanceAsked, RebalanceState
from gateway.admin.state import DrainState, GatewayState
from gateway.config import parse
from gateway.protocol.scanner_state import FRAMES
from gateway.routing.registry import Registry
from gateway.tunnels.table.layout import (
    BYTES,
    LAST_NS,
    LIVE,
    MAX_BACKENDS,
    MAX_ROUTES,
    OPENED_NS,
    OPENED_UNIX_NS,
    PING_AFTER_NS,
    PONG_NS,
    RTT_NS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    STATE,
    TOTAL_CELLS,
    W_PID,
    W_READY,
    W_STARTED_UNIX_NS,
)
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

NS = 1_000_000_000
CONFIG = """\
listen: [{address: "0.0.0.0:8080"}]
upstreams:
  chat: {backends: ["127.0.0.1:9001", {address: "chat2.internal:9001", weight: 2}], balance: round_robin}
  feed: {backends: ["unix:/run/feed.sock"]}
routes:
  - {name: chat, match: {path: /ws/}, upstream: chat}
  - {name: feed, upstream: feed}
"""


class FakeGateway:
    """Workers that only write to the table."""

    def __init__(self, config: str = CONFIG, workers: int = 2, max_tunnels: int = 1000, demo: bool = False) -> None:
        parsed = parse(config, "gateway.yaml", {})
        registry = Registry(MAX_ROUTES, MAX_BACKENDS)
        registry.admit(parsed)
        self.table = Table.create(workers, max_tunnels)
        self.state = GatewayState(self.table, registry, parsed, "gateway.yaml", max_tunnels, demo=demo)
        self.operations = FakeOperations(self)
        self.slices = [Slice(self.table, slot) for slot in range(workers)]
        for slot in range(workers):
            self.start(slot)

    def start(self, slot: int) -> None:
        """Have a worker come up."""
        block = self.table.worker(slot)
        self.table.cells[block + W_PID] = 4000 + slot
        self.table.cells[block + W_STARTED_UNIX_NS] = time.time_ns()
        self.table.cells[block + W_READY] = 1

    def stop(self, slot: int) -> None:
        """Have a worker die."""
        block = self.table.worker(slot)
        self.table.cells[block + W_READY] = 0
        self.table.cells[block + W_PID] = 0

    def open(
        self,
        route: str = "chat",
        backend: tuple[str, str] = ("chat", "127.0.0.1:9001"),
        *,
        slot: int = 0,
        age: float = 100,
        client_idle: float = 0,
        backend_idle: float = 0,
        counts: tuple[int, int, int, int] = (0, 0, 0, 0),
        ping_after: tuple[float | None, float | None] = (None, None),
        rtt: tuple[float, float] = (0, 0),
        texts: dict[str, bytes] | None = None,
    ) -> int:
        """Have a worker open a tunnel; return its row.

        Args:
            age, client_idle, backend_idle: seconds.
            counts: bytes and frames from the client, then from the backend.
            ping_after: silence in seconds after which the client and the backend are sent a Ping, if they are.
            rtt: seconds that the latest Pong of the client and of the backend took; 0 before the first.
            texts: of the row, where they are not the usual ones.
        """
        registry = self.state.registry
        row = self.slices[slot].allocate(registry.route(route), registry.backend(*backend))
        assert row is not None
        cells = self.table.cells
        now = time.monotonic_ns()
        cells[row + OPENED_NS] = now - int(age * NS)
        cells[row + OPENED_UNIX_NS] = time.time_ns() - int(age * NS)
        for side, idle in enumerate((client_idle, backend_idle)):
            at = row + SIDE_0 + side * SIDE_CELLS
            cells[at + LAST_NS] = now - int(idle * NS)
            cells[at + PONG_NS] = min(0, cells[at + LAST_NS])  # there was none, though the machine be younger than that
            cells[at + BYTES], cells[at + SCANNER + FRAMES] = counts[side * 2 : side * 2 + 2]
            if (interval := ping_after[side]) is not None:
                cells[at + PING_AFTER_NS] = int(interval * NS)
            cells[at + RTT_NS] = int(rtt[side] * NS)
        usual = {"client": b"192.0.2.7:5000", "host": b"chat.example.com", "path": b"/ws/room"}
        self.slices[slot].write_texts(row, **(usual | (texts or {})))
        cells[row + STATE] = LIVE
        return row

    def note(self, slot: int, side: str, cells: dict[int, int], route: str = "chat") -> None:
        """Have a worker hold these values in its totals of a route's side."""
        at = self.table.totals_at(slot, self.state.registry.route(route)) + SIDES.index(side) * TOTAL_CELLS
        for cell, value in cells.items():
            self.table.cells[at + cell] = value

    def close(self, row: int) -> None:
        """Have a tunnel end."""
        self.slices[self.table.slot_of(row)].release(row)


class FakeOperations:
    """Notes what it is told, and says what a test wants."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.told: list[str] = []
        self.refusal: str | None = None
        self._state = gateway.state

    async def reload(self) -> None:
        self._tell("reload")

    async def drain(self) -> DrainState:
        self._tell("drain")
        self._state.drain = DrainState(30.0, self._state.table.tunnels())
        return self._state.drain

    async def drain_backends(self, backends: frozenset[int]) -> list[DrainState]:
        self._tell(f"drain {sorted(backends)}")
        drains = {backend: DrainState(30.0, self._state.table.live(backend)) for backend in backends}
        self._state.drained_backends |= drains
        return list(drains.values())

    async def rebalance(self, asked: RebalanceAsked) -> list[RebalanceState]:
        self._tell(f"rebalance {asked.upstream} over {asked.period_seconds:g} s, dry_run {asked.dry_run}")
        backends = (BackendShare("127.0.0.1:9001", 8, 5, 3),)
        return [RebalanceState("chat", "least_tunnels", asked.period_seconds, left=3, backends=backends)]

    async def stop(self) -> None:
        self._tell("stop")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if self.refusal is not None:
            raise NotDone(self.refusal)


def samples(text: bytes | str) -> dict[str, float]:
    """The lines of a scrape, by all of the line that is not its value."""
    lines = (text.decode() if isinstance(text, bytes) else text).splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] not in ("", "#")}


def worker_file(directory: Path, kind: str, slot: int, key: str, value: float) -> Path:
    """Write what a worker keeps of one metric. ``key`` is prometheus-client's, in JSON."""
    from prometheus_client.mmap_dict import MmapedDict

    path = directory / f"{kind}_{slot}.db"
    kept = MmapedDict(str(path))  # type: ignore[no-untyped-call]  # prometheus-client leaves it untyped
    kept.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]  # as above
    kept.close()  # type: ignore[no-untyped-call]  # as above
    return path
