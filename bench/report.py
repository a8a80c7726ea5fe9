"""Prints what was measured, and writes it as JSON."""

import dataclasses
import json
import os
import platform
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.run import Comparison
from bench.scenarios import Metric, Scenario, Settings
from bench.targets import Verdict


def print_scenario(console: Console, scenario: Scenario, comparisons: list[Comparison]) -> None:
    """Prints one scenario: a row for nginx and one for each proxy, medians with the lowest and highest."""
    table = Table(title=f"{scenario.name}: {scenario.title}", title_justify="left")
    table.add_column("proxy")
    for metric in scenario.metrics:
        table.add_column(metric.unit, justify="right")
        if metric.as_ratio:
            table.add_column("x nginx", justify="right")
    baselines = [pair.nginx for comparison in comparisons for pair in comparison.pairs]
    if baselines:
        row = ["nginx"]
        for metric in scenario.metrics:
            values = [base[metric.key] for base in baselines]
            row.append(_spread(values, metric.decimals))
            row += ["1"] * metric.as_ratio
        table.add_row(*row, end_section=True)
    for comparison in comparisons:
        if comparison.proxy.name == "nginx":
            continue
        if comparison.error is not None:
            table.add_row(comparison.proxy.name, "failed")
        else:
            table.add_row(comparison.proxy.name, *_cells(comparison, scenario.metrics))
    console.print(table)
    for comparison in comparisons:
        if comparison.error is not None:
            console.print(f"{scenario.name}: {comparison.error}", style="red", markup=False)
    console.print()


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
        cells.append(f"{comparison.median(metric.key):,.{metric.decimals}f}")
        if metric.as_ratio:
            cells.append(_spread(comparison.ratios(metric.key), 2))
    return cells


def _spread(values: list[float], decimals: int) -> str:
    if not values:
        return "-"
    median = f"{statistics.median(values):,.{decimals}f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):,.{decimals}f}-{max(values):,.{decimals}f})"


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
