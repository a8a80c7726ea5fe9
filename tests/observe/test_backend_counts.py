"""Counters of backends: scrapes and files stay bounded while backends come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.admin.collector import render
from gateway.config.address import parse_backend
from gateway.config.settings_balancing import Backend
from gateway.observe.backend_counts import SPARE, BackendCounts
from gateway.processes.numbering import Numbering
from gateway.routing.registry import Vacancies

from ..admin.gateways import FakeGateway, samples
from ..edge.orders.worker import Worker

Opened = Callable[[Path], BackendCounts]
CONNECTIONS = "gateway_backend_connections_total"
ERRORS = "gateway_backend_connect_errors_total"
REST_SECONDS = 60
SIZE_BYTES = 1 << 17
"""Room for SPARE counters and those of the backends that there are, in steps of a power of two."""


@pytest.fixture
def opened() -> Iterator[Opened]:
    made: list[BackendCounts] = []

    def make(path: Path) -> BackendCounts:
        made.append(BackendCounts(str(path)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def line(name: str, backend: str, **labels: str) -> str:
    texts = [f'{key}="{value}"' for key, value in sorted({**labels, "backend": backend, "upstream": "chat"}.items())]
    return f"{name}{{{','.join(texts)}}}"


def test_hundreds_of_addresses_one_after_the_other(opened: Opened, tmp_path: Path) -> None:
    """As an upstream has them that finds its one backend at another address each hour; by two workers."""
    gateway = FakeGateway()
    state = gateway.state
    now = 0.0
    configured = list(state.registry.backends)
    numbering = Numbering(
        state, lambda: [*configured, ("chat", str(state.discovered["chat"][0].address))], Vacancies(REST_SECONDS)
    )
    workers = [opened(tmp_path / f"counter_backends_{slot}.db") for slot in range(2)]
    for number in range(400):
        address = f"10.1.{number // 250}.{number % 250}:9001"
        state.discovered = {"chat": (Backend(parse_backend(address), 1, None, False, False),)}
        state.registry.admit_backends([("chat", address)])
        for worker in workers:
            worker.keep(set(state.registry.backends))
            worker.connected("chat", address, "tunnel", "dial")(2)
            worker.connected("chat", address, "request", "pool")(1)
            worker.connected("chat", "127.0.0.1:9001", "tunnel", "dial")(1)
            worker.connect_failed("chat", address, "timeout")
        state.rebalanced["chat", address, "closed"] += 1
        for _ in range(2):
            numbering.look(now)
            now += REST_SECONDS
    body, _ = render(state, str(tmp_path))
    found = {text: value for text, value in samples(body).items() if "10.1." in text}
    gateway.table.close()
    assert {text.partition('backend="')[2].partition('"')[0] for text in found} <= {address, "10.1.1.148:9001"}
    assert found[line(CONNECTIONS, address, **{"for": "tunnel", "from": "dial"})] == 4
    assert found[line(ERRORS, address, reason="timeout")] == 2
    assert samples(body)[line(CONNECTIONS, "127.0.0.1:9001", **{"for": "tunnel", "from": "dial"})] == 800
    assert all(file.stat().st_size <= SIZE_BYTES for file in tmp_path.iterdir()), list(tmp_path.iterdir())
    assert len(state.registry.backends) < 10
    assert len(state.rebalanced) < 3


def many(counts: BackendCounts) -> set[tuple[str, str]]:
    """Count once at more backends than may stay behind. :returns: all of them"""
    backends = {("chat", f"10.0.{number // 250}.{number % 250}:1") for number in range(SPARE + 1)}
    for upstream, address in backends:
        counts.connected(upstream, address, "tunnel", "dial")(1)
    return backends


def values(path: Path) -> dict[str, float]:
    gateway = FakeGateway()
    gateway.state.registry.admit_backends(many(BackendCounts(None)) | {("chat", "here:1")})
    body, _ = render(gateway.state, str(path.parent))
    gateway.table.close()
    return {text: value for text, value in samples(body).items() if text.startswith(CONNECTIONS)}


def test_the_successor_of_a_dead_worker_counts_on(opened: Opened, tmp_path: Path) -> None:
    """It forgets what is gone, too; the half of a file that was left while it was written does no harm."""
    path = tmp_path / "counter_backends_0.db"
    before = opened(path)
    many(before)
    before.connected("chat", "here:1", "tunnel", "dial")(5)
    (tmp_path / "counter_backends_0.db.new").write_bytes(b"half")
    after = opened(path)
    after.connected("chat", "here:1", "tunnel", "dial")(1)
    assert len(values(path)) == SPARE + 2
    held = after.connected("chat", "here:1", "tunnel", "dial")
    after.keep({("chat", "here:1")})
    held(1)  # of a batch that began before
    after.connected("chat", "here:1", "tunnel", "dial")(1)
    assert values(path) == {line(CONNECTIONS, "here:1", **{"for": "tunnel", "from": "dial"}): 8}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_few_that_are_gone_may_stay(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "counter_backends_0.db"
    counts = opened(path)
    backends = many(counts)
    inode = path.stat().st_ino
    counts.keep(set(list(backends)[1:]))
    assert path.stat().st_ino == inode
    assert len(values(path)) == SPARE + 1


def test_what_cannot_be_removed_is_counted_on(opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "counter_backends_0.db"
    counts = opened(path)
    many(counts)
    (tmp_path / "counter_backends_0.db.new").mkdir()
    counts.keep(())
    assert "metrics: counters of backends that are gone cannot be removed: Is a directory" in caplog.text
    counts.connected("chat", "here:1", "tunnel", "dial")(1)
    assert len(values(path)) == SPARE + 2


def test_workers_forget_backends_with_each_change() -> None:
    """Both a configuration and a list of backends that were discovered say which there are."""
    with Worker() as worker:
        edge = worker.edge
        counts = edge.counts
        for change in (
            lambda: edge.use_backends({}, edge.config.registry, frozenset()),
            worker.put_in_force,
        ):
            many(counts)
            old = counts.connected("chat", "10.0.0.0:1", "tunnel", "dial")
            change()
            assert counts.connected("chat", "10.0.0.0:1", "tunnel", "dial") is not old
