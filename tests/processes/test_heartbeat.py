"""Which workers hang, by a virtual clock."""

from __future__ import annotations

from gateway.processes.heartbeat import INTERVAL_SECONDS, PAUSE_SECONDS, SILENCE_SECONDS, Watch


def looks(watch: Watch, start: float, seconds: float) -> float:
    """Look again and again for a while; when that was over."""
    now = start
    while now < start + seconds:
        now += INTERVAL_SECONDS
        watch.look(now)
    return now


def test_a_worker_hangs_after_a_while() -> None:
    watch = Watch(100)
    now = looks(watch, 100, SILENCE_SECONDS)
    assert not watch.hangs(100)
    now = looks(watch, now, INTERVAL_SECONDS)
    assert watch.hangs(100)
    assert not watch.hangs(now - 1)
    assert not watch.hangs(now)


def test_a_heartbeat_from_before_the_watch_began_counts_from_then() -> None:
    watch = Watch(100)
    now = looks(watch, 100, SILENCE_SECONDS)
    assert not watch.hangs(3)
    looks(watch, now, INTERVAL_SECONDS)
    assert watch.hangs(3)


def test_whoever_was_stopped_together_with_the_watch_gets_its_time() -> None:
    watch = Watch(100)
    now = looks(watch, 100, 5)
    now += 1000
    watch.look(now)
    assert not watch.hangs(104)
    now = looks(watch, now, SILENCE_SECONDS)
    assert not watch.hangs(104)
    looks(watch, now, INTERVAL_SECONDS)
    assert watch.hangs(104)


def test_a_watch_that_gets_no_cpu_accuses_nobody() -> None:
    watch = Watch(0)
    for n in range(1, 100):
        watch.look(n * (PAUSE_SECONDS + 0.1))
        assert not watch.hangs(0)
