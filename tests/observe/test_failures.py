"""Failures of backends, collected for the supervisor."""

import asyncio
from types import SimpleNamespace

from gateway.observe import failures
from gateway.observe.failures import Failures
from tests.support.deadline import quiet_for


def target(upstream, number):
    return SimpleNamespace(upstream=upstream, number=number)


async def test_a_flood_of_failures_is_a_report_now_and_then(monkeypatch):
    monkeypatch.setattr(failures, "REPORT_SECONDS", 0.02)
    counted = Failures(asyncio.get_running_loop())
    counted.use({"chat": SimpleNamespace(ejects=True), "site": SimpleNamespace(ejects=False)})
    reports: asyncio.Queue = asyncio.Queue()
    counted.report = reports.put_nowait
    for _ in range(1000):
        counted.count(target("chat", 3))
        counted.count(target("site", 4))
    counted.count(target("chat", 5))
    assert await reports.get() == {3: 1000, 5: 1}
    assert reports.empty()
    counted.count(target("chat", 5))
    assert await reports.get() == {5: 1}
    counted.use({})
    counted.count(target("chat", 5))
    await quiet_for(0.05)
    assert reports.empty()
