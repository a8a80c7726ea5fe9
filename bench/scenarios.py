"""What is measured: each scenario drives proxies that run, by turns, and returns the figures of each."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.errors import BenchError
from bench.instance import Instance
from bench.load import Load, running_load
from bench.pings import SECOND, busiest_second, pings_a_second
from bench.priority import ahead_of_all
from bench.proxies import DEFAULT_KEEPALIVE, NO_KEEPALIVE

AT_A_TIME = 16
LATENCY_RATE = 2000
WARMUP_TUNNELS = 20
PING_AFTER_SECONDS = 10
BUSY_RATE = 1000


Figures = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How long a proxy is measured in each pair, and in how many slices, taking turns with nginx."""

    seconds: float = 2.0
    slices: int = 5
    warmup_seconds: float = 0.5
    handshakes: int = 10_000
    warmup_handshakes: int = 1000
    idle_seconds: float = 10.0
    settle_seconds: float = 2.0
    pinged_seconds: float = 30.0
    busy_seconds: float = 10.0


@dataclass(frozen=True)
class Metric:
    """A figure: its key, unit as printed, decimals, and whether its ratio to nginx is shown too."""

    key: str
    unit: str
    decimals: int = 1
    as_ratio: bool = True


@dataclass(frozen=True)
class Scenario:
    """A load and its figures. `pairs` caps how often it is repeated (None: as often as asked).

    `measure` takes proxies that run, and returns the figures of each, slice by slice. `keepalive` is our gateway's
    (`proxies.Place`). A `pinged` one compares it with itself without Pings instead of nginx, and is for no other proxy.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Sequence[Instance], Settings], list[list[Figures]]]
    workers: int = 1
    pairs: int | None = None
    keepalive: str = DEFAULT_KEEPALIVE
    pinged: bool = False


BUSY = Metric("busy_percent", "% busy", 0, as_ratio=False)
HANDSHAKES_SETTLE_SECONDS = 0.2


def _take_turns(
    instances: Sequence[Instance],
    arguments: list[list[str | float]],
    settle_seconds: float,
    slices: int,
    urgent: frozenset[int] = frozenset(),
) -> list[list[Figures]]:
    """Drives the instances by turns, short ones: the machine is the same for all. Returns each one's slices.

    `arguments` are the load program's, for each instance. `settle_seconds` pass before the CPU is read. The processes
    `urgent` go ahead of all others meanwhile, and the load with them.
    """
    figures: list[list[Figures]] = [[] for _ in instances]
    with contextlib.ExitStack() as stack:
        loads = [
            stack.enter_context(running_load(instance.load_program, *own, cores=instance.load_cores))
            for instance, own in zip(instances, arguments, strict=True)
        ]
        for instance, load in zip(instances, loads, strict=True):
            with instance.blamed():
                load.expect("warm", 60)
        time.sleep(settle_seconds)
        if urgent:
            stack.enter_context(ahead_of_all([*urgent, *(load.pid for load in loads)]))
        turns = list(zip(instances, loads, figures, strict=True))
        for number in range(slices):
            # the other way round every second time: a machine that slows down then favours neither
            for instance, load, own in turns if number % 2 == 0 else reversed(turns):
                with instance.blamed():
                    own.append(_slice(instance, load, settle_seconds))
    return figures


def _slice(instance: Instance, load: Load, settle_seconds: float) -> Figures:
    before = instance.cpu_seconds()
    load.go()
    result = load.result(60)
    load.expect("warm", 10)
    time.sleep(settle_seconds)
    used = instance.cpu_seconds() - before
    return {
        "cpu_us": used / result["count"] * 1e6,
        "per_second": result["count"] / result["seconds"],
        "p50_us": result["p50_us"],
        "p99_us": result["p99_us"],
        "busy_percent": used / result["seconds"] * 100,
    }


def _handshakes(instances: Sequence[Instance], settings: Settings) -> list[list[Figures]]:
    slices = 2 * settings.slices  # handshakes scatter most, and a slice needs no time to get going
    count = max(settings.handshakes // slices, AT_A_TIME)
    arguments: list[list[str | float]] = [
        ["handshake", instance.port, AT_A_TIME, settings.warmup_handshakes, count] for instance in instances
    ]
    return _take_turns(instances, arguments, HANDSHAKES_SETTLE_SECONDS, slices)


def _messages(
    instances: Sequence[Instance], settings: Settings, *, tunnels: int, payload_bytes: int, rate: int = 0
) -> list[list[Figures]]:
    mode, last = ("latency", [rate]) if rate else ("echo", [])
    seconds = [settings.warmup_seconds, settings.seconds / settings.slices]
    arguments: list[list[str | float]] = [
        [mode, instance.port, tunnels, payload_bytes, *seconds, *last] for instance in instances
    ]
    return _take_turns(instances, arguments, 0, settings.slices)


def _idle(instances: Sequence[Instance], settings: Settings, *, tunnels: int) -> list[list[Figures]]:
    figures = []
    for instance in instances:
        with instance.blamed():
            figures.append([_hold(instance, settings, tunnels)])
    return figures


def _hold(instance: Instance, settings: Settings, tunnels: int) -> Figures:
    with running_load(instance.load_program, "idle", instance.port, WARMUP_TUNNELS, cores=instance.load_cores) as load:
        load.expect("ready", 60)
    time.sleep(0.5)
    before = instance.memory_bytes()
    with running_load(instance.load_program, "idle", instance.port, tunnels, cores=instance.load_cores) as load:
        load.expect("ready", 120)
        time.sleep(settings.settle_seconds)
        held = instance.memory_bytes() - before
        cpu_percent = _watch_cpu(instance, settings.idle_seconds)
        result = _end_of_silence(load, tunnels)
    return {"tunnel_bytes": held / tunnels, "cpu_percent": cpu_percent, "pings": result["pings"]}


def _pinged(instances: Sequence[Instance], settings: Settings, *, tunnels: int) -> list[list[Figures]]:
    figures = []
    for instance in instances:
        with instance.blamed():
            hold = _hold_silent if instance.keepalive == NO_KEEPALIVE else _hold_pinged
            figures.append([hold(instance, settings, tunnels)])
    return figures


def _hold_silent(instance: Instance, settings: Settings, tunnels: int) -> Figures:
    with running_load(instance.load_program, "idle", instance.port, tunnels, cores=instance.load_cores) as load:
        load.expect("ready", 120)
        time.sleep(settings.settle_seconds)
        cpu_percent = _watch_cpu(instance, settings.idle_seconds)
        latencies = _busy_tunnel(instance, settings, load)
        _end_of_silence(load, tunnels)
    return {"cpu_percent": cpu_percent, **latencies}


def _hold_pinged(instance: Instance, settings: Settings, tunnels: int) -> Figures:
    with running_load(instance.load_program, "pinged", instance.port, tunnels, cores=instance.load_cores) as load:
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
    common: list[str | float] = [instance.port, 1, 64, settings.warmup_seconds, settings.busy_seconds / slices]
    urgent = instance.pids | {instance.backend_pid, beside.pid}
    always, at_rate = _take_turns(
        [instance] * 2, [["echo", *common], ["latency", *common, BUSY_RATE]], 0, slices, urgent
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


_ECHO = (
    Metric("cpu_us", "us CPU"),
    Metric("per_second", "trips/s", 0),
    Metric("p99_us", "us p99", 0, as_ratio=False),
    BUSY,
)
_IDLE = (Metric("tunnel_bytes", "B a tunnel", 0), Metric("cpu_percent", "% of a core", 2, as_ratio=False))
_PINGED = (
    Metric("cpu_percent", "% of a core", 2, as_ratio=False),
    Metric("pings_a_second", "Pings/s", 0, as_ratio=False),
    Metric("busiest_second", "busiest s", 2, as_ratio=False),
    Metric("longest_silence_seconds", "s silent", 1, as_ratio=False),
    Metric("p99_us", "us p99", 0),
    Metric("p99_at_rate_us", "at rate", 0),
)
_EVERY_SO_OFTEN = f"{{ping_after: {PING_AFTER_SECONDS}s}}"

SCENARIOS = [
    Scenario(
        "handshake",
        f"open, upgrade, close; {AT_A_TIME} at a time",
        (Metric("cpu_us", "us CPU"), Metric("per_second", "a second", 0), BUSY),
        _handshakes,
    ),
    Scenario(
        "echo-64-100",
        "64 B round trips, one in flight on each of 100 tunnels",
        _ECHO,
        partial(_messages, tunnels=100, payload_bytes=64),
    ),
    Scenario(
        "echo-64-2000",
        "64 B round trips, one in flight on each of 2,000 tunnels",
        _ECHO,
        partial(_messages, tunnels=2000, payload_bytes=64),
    ),
    Scenario(
        "echo-64k-20",
        "64 KiB round trips, one in flight on each of 20 tunnels",
        _ECHO,
        partial(_messages, tunnels=20, payload_bytes=65536),
    ),
    Scenario(
        "latency",
        f"64 B round trips over 100 tunnels, {LATENCY_RATE} a second whatever comes back",
        (Metric("p50_us", "us p50", 0), Metric("p99_us", "us p99", 0), Metric("cpu_us", "us CPU"), BUSY),
        partial(_messages, tunnels=100, payload_bytes=64, rate=LATENCY_RATE),
    ),
    Scenario(
        "idle",
        "2,000 silent tunnels, 1 worker",
        _IDLE,
        partial(_idle, tunnels=2000),
        pairs=2,
        keepalive=NO_KEEPALIVE,
    ),
    Scenario(
        "idle-8000",
        "8,000 silent tunnels, 2 workers",
        _IDLE,
        partial(_idle, tunnels=8000),
        workers=2,
        pairs=1,
        keepalive=NO_KEEPALIVE,
    ),
    Scenario(
        "idle-8000-pings",
        f"8,000 silent tunnels, 2 workers, a Ping to each client every {PING_AFTER_SECONDS} s",
        _PINGED,
        partial(_pinged, tunnels=8000),
        workers=2,
        pairs=3,
        keepalive=f"{{client: {_EVERY_SO_OFTEN}, backend: off}}",
        pinged=True,
    ),
    Scenario(
        "idle-8000-pings-both",
        f"the same with a Ping to each client and each backend every {PING_AFTER_SECONDS} s",
        _PINGED,
        partial(_pinged, tunnels=8000),
        workers=2,
        pairs=1,
        keepalive=f"{{client: {_EVERY_SO_OFTEN}, backend: {_EVERY_SO_OFTEN}}}",
        pinged=True,
    ),
]


def resized_idle(tunnels: int, workers: int) -> Scenario:
    """Returns the `idle` scenario with another number of tunnels and workers."""
    idle = next(scenario for scenario in SCENARIOS if scenario.name == "idle")
    title = f"{tunnels:,} silent tunnels, {workers} worker{'s' * (workers > 1)}"
    return replace(idle, title=title, workers=workers, measure=partial(_idle, tunnels=tunnels))
