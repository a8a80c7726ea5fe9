"""Prometheus's text format, version 0.0.4.

prometheus-client writes it, too, but in a module that imports its HTTP server and client, and everything that those
need: 2 MB in the supervisor. Its module for OpenMetrics does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TYPES = {"gaugehistogram": "histogram", "info": "gauge", "unknown": "untyped"}
"""What this format calls those types that it does not know by their own name."""

_SUFFIXES = {"counter": "_total", "info": "_info"}
"""Of the names of metrics: that of samples, which OpenMetrics leaves out."""

_OF_THEIR_OWN = ("_created", "_gcount", "_gsum")
"""Suffixes of samples that are no part of such a metric here, and follow as gauges."""


def plain_text(families: Iterable[Metric]) -> bytes:
    """Return a scrape's body. :param families: with names, types and labels that are valid in this format"""
    written: list[str] = []
    for family in families:
        further: dict[str, list[str]] = {}
        help_text = _escaped(family.documentation)
        name = family.name + _SUFFIXES.get(family.type, "")
        written.append(f"# HELP {name} {help_text}\n# TYPE {name} {_TYPES.get(family.type, family.type)}\n")
        for sample in family.samples:
            suffix = sample.name[len(family.name) :]
            (further.setdefault(suffix, []) if suffix in _OF_THEIR_OWN else written).append(_line(sample))
        for suffix in sorted(further):
            name = family.name + suffix
            written.append(f"# HELP {name} {help_text}\n# TYPE {name} gauge\n")
            written += further[suffix]
    return "".join(written).encode()


def _line(sample: Any) -> str:
    labels = ",".join(
        [f'{name}="{_escaped(value).replace(_QUOTE, _ESCAPED_QUOTE)}"' for name, value in sorted(sample.labels.items())]
    )
    return (
        f"{sample.name}{{{labels}}} {_number(sample.value)}\n" if labels else f"{sample.name} {_number(sample.value)}\n"
    )


_QUOTE, _ESCAPED_QUOTE = '"', r"\""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # prometheus-client leaves it untyped
    return text
