"""A probe as a whole, in this process."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from gateway.probe import planner as planner_module
from gateway.probe import probe as probe_module
from gateway.probe.outcomes import Outcome, Rung
from gateway.probe.planner import Kind
from gateway.probe.probe import Probe
from gateway.probe.target import parse_target
from tests.conftest import Backends

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Told:
    """Notes what a watcher is told."""

    def __init__(self) -> None:
        self.rounds: list[tuple[int, Kind, int, float]] = []
        self.outcomes: list[tuple[Rung, Outcome]] = []

    def round_begins(self, number: int, kind: Kind, rungs: Sequence[Rung], seconds: float) -> None:
        self.rounds.append((number, kind, len(rungs), seconds))

    def tunnel_ended(self, rung: Rung, outcome: Outcome) -> None:
        self.outcomes.append((rung, outcome))


async def probe_of(backends: Backends, told: Told, max_seconds: float = 1.0) -> Probe:
    echo = await backends.echo()
    return Probe(parse_target(f"ws://{echo.address}/", subprotocols=("v10.stomp",)), max_seconds, 0.5, None, told)


async def test_what_it_tells(backends: Backends) -> None:
    told = Told()
    probe = await probe_of(backends, told)
    assert probe.report().as_json()["cutoff_seconds"] is None  # before anything is known
    await probe.run()
    report = probe.report()
    assert told.rounds == [(1, "ladder", 3, 1.5)]
    assert [(1, *each) for each in told.outcomes] == report.outcomes
    assert report.verdict.confirmed
    assert report.path.subprotocol == "v10.stomp"
    assert report.path.answers_pings
    assert report.path.rtt_seconds is not None
    assert 0 < report.path.rtt_seconds < 0.5
    assert report.path.server[0].startswith("Python/")
    assert not list(report.notes())


async def test_it_takes_no_longer_than_was_said(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes a round longer than it was planned."""
    monkeypatch.setattr(planner_module, "_BUDGET", 0)
    monkeypatch.setattr(planner_module, "_SPARE_SECONDS", 1.0)
    monkeypatch.setattr(planner_module, "_OPENING_SECONDS", -1000.0)
    probe = await probe_of(backends, Told(), max_seconds=60.0)
    await probe.run()
    report = probe.report()
    assert report.elapsed_seconds < 10
    assert not report.verdict.confirmed
    assert report.sentence() == "nothing is known yet"


async def test_a_machine_that_sleeps_meanwhile(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = itertools.count(0, 100)
    monkeypatch.setattr(probe_module, "_asleep_seconds", lambda: next(asleep))
    probe = await probe_of(backends, Told())
    await probe.run()
    assert "this machine slept meanwhile, which ends tunnels, too: probe again" in list(probe.report().notes())
