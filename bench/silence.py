"""Scenarios of silent tunnels: what they hold and cost, and what Pings for each of them cost."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.errors import BenchError
from bench.instance import Instance
from bench.load import Load
from bench.pings import SECOND, busiest_second, pings_a_second
from bench.proxies import NO_KEEPALIVE
from bench.scenario import Figures, Settings
from bench.turns import take_turns

WARMUP_TUNNELS = 20
PING_AFTER_SECONDS = 10
BUSY_RATE = 1000


def idle(instances: Sequence[Instance], settings: Settings, *, tunnels: int) -> list[list[Figures]]:
    figures = []
    for instance in instances:
        with instance.blamed():
            figures.append([_hold(instance, settings, tunnels)])
    return figures


def _hold(instance: Instance, settings: Settings, tunnels: int) -> Figures:
    with instance.load("idle", WARMUP_TUNNELS) as load:
        load.expect("ready", 60)
    time.sleep(0.5)
    before = instance.memory_bytes()
    with instance.load("idle", tunnels) as load:
        load.expect("ready", 120)
        time.sleep(settings.settle_seconds)
        held = instance.memory_bytes() - before
        cpu_percent = _watch_cpu(instance, settings.idle_seconds)
        result = _end_of_silence(load, tunnels)
    return {"tunnel_bytes": held / tunnels, "cpu_percent": cpu_percent, "pings": result["pings"]}


def pinged(instances: Sequence[Instance], settings: Settings, *, tunnels: int) -> list[list[Figures]]:
    figures = []
    for instance in instances:
        with instance.blamed():
            hold = _hold_silent if instance.keepalive == NO_KEEPALIVE else _hold_pinged
            figures.append([hold(instance, settings, tunnels)])
    return figures


def _hold_silent(instance: Instance, settings: Settings, tunnels: int) -> Figures:
    with instance.load("idle", tunnels) as load:
        load.expect("ready", 120)
        time.sleep(settings.settle_seconds)
        cpu_percent = _watch_cpu(instance, settings.idle_seconds)
        latencies = _busy_tunnel(instance, settings, load)
        _end_of_silence(load, tunnels)
    return {"cpu_percent": cpu_percent, **latencies}


def _hold_pinged(instance: Instance, settings: Settings, tunnels: int) -> Figures:
    with instance.load("pinged", tunnels) as load:
        load.expect("ready", 120)
        load.expect("pinging", 2 * PING_AFTER_SECONDS)
        cpu_percent = _watch_cpu(instance, settings.pinged_seconds)
        latencies = _busy_tunnel(instance, settings, load)
        result = _end_of_silence(load, tunnels)
    tenths = result["tenths"]
    later = tenths[PING_AFTER_SECONDS * SECOND :]
    return {
        "cpu_percent": cpu_percent,
        **latencies,
        "pings_a_second": pings_a_second(later),
        "busiest_second": busiest_second(tenths),
        "busiest_second_later": busiest_second(later),
        "longest_silence_seconds": result["longest_silence_seconds"],
    }


def _watch_cpu(instance: Instance, seconds: float) -> float:
    """Returns how much of a core the proxy uses, in percent."""
    started, used_before = time.monotonic(), instance.cpu_seconds()
    time.sleep(seconds)
    used = instance.cpu_seconds() - used_before
    return used / (time.monotonic() - started) * 100


def _busy_tunnel(instance: Instance, settings: Settings, beside: Load) -> Figures:
    """Returns the p99 of one tunnel beside silent ones: with a message always in flight, and at a fixed rate."""
    slices = 2 * settings.slices
    common: list[str | float] = [1, 64, settings.warmup_seconds, settings.busy_seconds / slices]
    urgent = instance.pids | {instance.backend_pid, beside.pid}
    always, at_rate = take_turns(
        [instance] * 2, [("echo", common), ("latency", [*common, BUSY_RATE])], 0, slices, urgent
    )
    return {
        "p99_us": statistics.median(figures["p99_us"] for figures in always),
        "p99_at_rate_us": statistics.median(figures["p99_us"] for figures in at_rate),
    }


def _end_of_silence(load: Load, tunnels: int) -> dict[str, Any]:
    """Raises BenchError when a tunnel was cut."""
    load.go()
    result = load.result(10)
    if result["lost"]:
        raise BenchError(f"{result['lost']:.0f} of {tunnels} idle tunnels were cut")
    return result
