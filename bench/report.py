"""Prints what was measured, and writes it as JSON."""

import dataclasses
import json
import os
import platform
import statistics
import time
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.run import Comparison
from bench.scenario import Metric, Scenario, Settings
from bench.targets import Verdict


def print_scenario(console: Console, scenario: Scenario, comparisons: list[Comparison]) -> None:
    """Prints one scenario: a row for each baseline and each proxy, medians with the lowest and highest."""
    table = Table(title=f"{scenario.name}: {scenario.title}", title_justify="left")
    table.add_column("proxy", no_wrap=True)
    for metric in scenario.metrics:
        table.add_column(metric.unit, justify="right")
        if metric.as_ratio:
            table.add_column("x no Pings" if scenario.pinged else "x nginx", justify="right")
    for baseline, compared in groupby(comparisons, lambda comparison: comparison.baseline_name):
        _add_rows(table, scenario.metrics, baseline, list(compared))
    console.print(table)
    for comparison in comparisons:
        if comparison.error is not None:
            console.print(f"{scenario.name}: {comparison.error}", style="red", markup=False)
    console.print()


def _add_rows(table: Table, metrics: tuple[Metric, ...], baseline: str, comparisons: list[Comparison]) -> None:
    """Adds the row of a baseline, and one for each proxy that was compared with it."""
    figures = [pair.baseline for comparison in comparisons for pair in comparison.pairs]
    if figures:
        row = [baseline]
        for metric in metrics:
            row.append(_spread([own[metric.key] for own in figures if metric.key in own], metric.decimals))
            row += ["1"] * metric.as_ratio
        table.add_row(*row, end_section=True)
    for comparison in comparisons:
        if comparison.proxy.name == baseline:
            continue
        cells = _cells(comparison, metrics) if comparison.error is None else ["failed"]
        table.add_row(comparison.proxy.name, *cells)
    table.add_section()


def print_targets(console: Console, verdicts: list[Verdict]) -> None:
    """Prints each target beside what was measured."""
    table = Table(title="Targets", title_justify="left")
    for heading in ("proxy", "target", "bound", "measured", "met"):
        table.add_column(heading)
    for verdict in verdicts:
        measured = "-" if verdict.measured is None else f"{verdict.measured:.2f}{verdict.target.unit}"
        outcome = "yes" if verdict.met else f"[red]{verdict.shortfall}[/red]"
        target = verdict.target
        table.add_row(target.proxy, target.what, target.bound, measured, outcome)
    console.print(table)


def write_json(
    path: Path,
    comparisons: list[Comparison],
    verdicts: list[Verdict],
    settings: Settings,
    versions: dict[str, str],
    pinned: bool,
) -> None:
    """Writes every single figure, the medians, and what they were measured with and on."""
    document = {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "load_average": os.getloadavg(),
        },
        "versions": versions,
        "settings": {**dataclasses.asdict(settings), "pinned": pinned},
        "comparisons": [_as_json(comparison) for comparison in comparisons],
        "targets": [
            {**dataclasses.asdict(verdict.target), "measured": verdict.measured, "met": verdict.met}
            for verdict in verdicts
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _cells(comparison: Comparison, metrics: tuple[Metric, ...]) -> list[str]:
    cells = []
    for metric in metrics:
        if metric.as_ratio:
            cells.append(f"{comparison.median(metric.key):,.{metric.decimals}f}")
            cells.append(_spread(comparison.ratios(metric.key), 2))
        else:
            cells.append(_spread([pair.proxy[metric.key] for pair in comparison.pairs], metric.decimals))
    return cells


def _spread(values: list[float], decimals: int) -> str:
    if not values:
        return "-"
    median, lowest, highest = (
        f"{value:,.{decimals}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return median if lowest == highest else f"{median} ({lowest}-{highest})"


def _as_json(comparison: Comparison) -> dict[str, object]:
    keys = [metric.key for metric in comparison.scenario.metrics]
    return {
        "scenario": comparison.scenario.name,
        "proxy": comparison.proxy.name,
        "workers": comparison.scenario.workers,
        "error": comparison.error,
        "medians": {key: comparison.median(key) for key in keys} if comparison.pairs else {},
        "median_ratios": {
            key: comparison.median_ratio(key) for key in keys if comparison.pairs and comparison.ratios(key)
        },
        "pairs": [dataclasses.asdict(pair) for pair in comparison.pairs],
    }
