"""The scenario of many handshakes that begin at once, and of the tunnels that are busy meanwhile."""

import contextlib
from collections.abc import Sequence

from bench.instance import Instance
from bench.load import Load
from bench.priority import ahead_of_all, favoured
from bench.scenario import Figures, Settings

PAYLOAD_BYTES = 64


def bursts(
    instances: Sequence[Instance], settings: Settings, *, tunnels: int, rate: int, handshakes: int
) -> list[list[Figures]]:
    """Sends `rate` messages a second over `tunnels` while `handshakes` begin at once and until the last has ended.

    The latencies are to be the proxy's: neighbours and the clients that shake hands give way to everything else here.
    """
    with contextlib.ExitStack() as stack:
        loads: list[tuple[Load, Load]] = []
        for instance in instances:
            with instance.blamed():
                busy = stack.enter_context(
                    instance.load("latency", tunnels, PAYLOAD_BYTES, settings.warmup_seconds, 0, rate)
                )
                busy.expect("warm", 60)
                many = stack.enter_context(instance.load("handshake", handshakes, handshakes, handshakes))
                many.expect("warm", 60)
                loads.append((busy, many))
        figures: list[list[Figures]] = [[] for _ in instances]
        of_all = list(zip(instances, loads, figures, strict=True))
        for number in range(settings.slices):
            for instance, (busy, many), own in of_all if number % 2 == 0 else reversed(of_all):
                first = [*instance.pids, instance.backend_pid, busy.pid]
                with instance.blamed(), ahead_of_all(first), favoured([many.pid]):
                    own.append(_measure(busy, many))
                with instance.blamed():
                    busy.expect("warm", 60)
                    many.expect("warm", 60)
    return figures


def _measure(busy: Load, many: Load) -> Figures:
    busy.go()
    many.go()
    burst = many.result(60)
    busy.go()
    beside = busy.result(60)
    return {
        "p50_us": beside["p50_us"],
        "p99_us": beside["p99_us"],
        "burst_ms": burst["seconds"] * 1000,
        "handshake_p99_ms": burst["p99_us"] / 1000,
    }
