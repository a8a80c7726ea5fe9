"""Drives proxies by turns, in short slices, and reads what each slice cost."""

import contextlib
import time
from collections.abc import Sequence

from bench.instance import Instance
from bench.load import Load
from bench.priority import ahead_of_all
from bench.scenario import Figures


def take_turns(
    instances: Sequence[Instance],
    loads_of: Sequence[tuple[str, Sequence[str | float]]],
    settle_seconds: float,
    slices: int,
    urgent: frozenset[int] = frozenset(),
) -> list[list[Figures]]:
    """Drives the instances by turns, short ones: the machine is the same for all. Returns each one's slices.

    `loads_of` are a mode of the load program and its arguments, for each instance. `settle_seconds` pass before the CPU
    is read. The processes `urgent` go ahead of all others meanwhile, and the load with them.
    """
    with contextlib.ExitStack() as stack:
        loads = [
            stack.enter_context(instance.load(mode, *arguments))
            for instance, (mode, arguments) in zip(instances, loads_of, strict=True)
        ]
        for instance, load in zip(instances, loads, strict=True):
            with instance.blamed():
                load.expect("warm", 60)
        time.sleep(settle_seconds)
        if urgent:
            stack.enter_context(ahead_of_all([*urgent, *(load.pid for load in loads)]))
        return alternate(list(zip(instances, loads, strict=True)), settle_seconds, slices)


def alternate(turns: Sequence[tuple[Instance, Load]], settle_seconds: float, slices: int) -> list[list[Figures]]:
    """Lets loads that are warm measure their instances by turns. Returns each one's slices."""
    figures: list[list[Figures]] = [[] for _ in turns]
    of_all = list(zip(turns, figures, strict=True))
    for number in range(slices):
        # the other way round every second time: a machine that slows down then favours neither
        for (instance, load), own in of_all if number % 2 == 0 else reversed(of_all):
            with instance.blamed():
                own.append(_measure_slice(instance, load, settle_seconds))
    return figures


def _measure_slice(instance: Instance, load: Load, settle_seconds: float) -> Figures:
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
