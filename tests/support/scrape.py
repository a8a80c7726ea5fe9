"""A scrape of ``/metrics``, parsed by prometheus-client's own parser."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class Scrape:
    """What a gateway's metrics said at one moment."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def families(self) -> dict[str, Metric]:
        """All of it. Most tests look at a series or two, and parsing thousands takes tens of milliseconds."""
        found: dict[str, Metric] = {}
        for family in sorted(text_string_to_metric_families(self.text), key=lambda family: family.type == "counter"):
            # The parser takes a counter's suffix away, and a gauge may have the rest for a name.
            taken = family.name in found
            found[f"{family.name}_total" if taken else family.name] = family
        return found

    def samples(self, name: str, **labels: str) -> Iterator[Sample]:
        """Samples of this name (as it stands in the text) that have these labels, whatever others they have."""
        lines = [line for line in self.text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if labels.items() <= sample.labels.items():
                    yield sample

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples with these labels; 0 where there are none."""
        return sum(sample.value for sample in self.samples(name, **labels))

    def counters(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every series that may never go down. The text format has no type for a gauge histogram: it looks like one."""
        found = {}
        for family in self.families.values():
            if family.type in ("counter", "histogram") and family.name != "gateway_tunnel_idle_seconds":
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
        return found
