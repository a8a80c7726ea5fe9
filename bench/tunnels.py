"""Scenarios of busy tunnels: handshakes, and messages that are echoed."""

from collections.abc import Sequence

from bench.instance import Instance
from bench.scenario import Figures, Settings
from bench.turns import take_turns

AT_A_TIME = 16
SETTLE_SECONDS = 0.2  # work that is put off until after a close counts, too


def handshakes(instances: Sequence[Instance], settings: Settings) -> list[list[Figures]]:
    slices = 2 * settings.slices  # handshakes scatter most, and a slice needs no time to get going
    count = max(settings.handshakes // slices, AT_A_TIME)
    load = ("handshake", [AT_A_TIME, settings.warmup_handshakes, count])
    return take_turns(instances, [load] * len(instances), SETTLE_SECONDS, slices)


def messages(
    instances: Sequence[Instance], settings: Settings, *, tunnels: int, payload_bytes: int, rate: int = 0
) -> list[list[Figures]]:
    mode, last = ("latency", [rate]) if rate else ("echo", [])
    seconds = [settings.warmup_seconds, settings.seconds / settings.slices]
    load = (mode, [tunnels, payload_bytes, *seconds, *last])
    return take_turns(instances, [load] * len(instances), 0, settings.slices)
