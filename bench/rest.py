"""The scenario of a proxy that does nothing: the memory that it takes before it has any work."""

import time
from collections.abc import Sequence

from bench.instance import Instance
from bench.scenario import Figures, Settings

MB = 1_000_000


def at_rest(instances: Sequence[Instance], settings: Settings) -> list[list[Figures]]:
    """Waits, then looks at all of each proxy's processes."""
    time.sleep(settings.rest_seconds)
    figures = []
    for instance in instances:
        with instance.blamed():
            figures.append([{"resident_mb": instance.proportional_bytes() / MB}])
    return figures
