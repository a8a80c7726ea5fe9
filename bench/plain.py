"""Scenarios of plain HTTP: requests on kept-alive connections, and open event streams."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from bench.instance import Instance
from bench.load import Load
from bench.scenario import Figures, Settings
from bench.turns import alternate, take_turns

WARMUP_STREAMS = 20
SETTLE_SECONDS = 0.2  # log lines and counts that are put off until after an answer count, too


def requests(instances: Sequence[Instance], settings: Settings, *, kind: str, connections: int) -> list[list[Figures]]:
    """Keeps one request under way on each of `connections`; `kind` is one of the load program's."""
    seconds = [settings.warmup_seconds, settings.seconds / settings.slices]
    arguments: list[str | float] = [connections, kind, *seconds]
    return take_turns(instances, [("http", arguments)] * len(instances), SETTLE_SECONDS, settings.slices)


def event_streams(instances: Sequence[Instance], settings: Settings, *, streams: int) -> list[list[Figures]]:
    """Opens `streams` on each, looks at what they hold, then sends rounds of an event to each of them."""
    with contextlib.ExitStack() as stack:
        turns: list[tuple[Instance, Load]] = []
        held: list[float] = []
        for instance in instances:
            with instance.blamed():
                with _open_streams(instance, settings, WARMUP_STREAMS):
                    pass
                time.sleep(0.5)
                before = instance.memory_bytes()
                turns.append((instance, stack.enter_context(_open_streams(instance, settings, streams))))
                time.sleep(settings.settle_seconds)
                held.append((instance.memory_bytes() - before) / streams)
        figures = alternate(turns, SETTLE_SECONDS, settings.slices)
    return [
        [{**own, "stream_bytes": stream_bytes} for own in slices]
        for slices, stream_bytes in zip(figures, held, strict=True)
    ]


@contextlib.contextmanager
def _open_streams(instance: Instance, settings: Settings, streams: int) -> Iterator[Load]:
    """Opens streams that have carried some rounds, then fell silent."""
    seconds = [settings.warmup_seconds, settings.seconds / settings.slices]
    with instance.load("events", streams, instance.backend_port, *seconds) as load:
        load.expect("warm", 120)
        yield load
