"""Runs scenarios in pairs: a proxy and what it is compared with side by side, taking turns."""

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.certificate import fresh_certificate
from bench.errors import BenchError
from bench.instance import Cores, running
from bench.proxies import BASELINE, NO_KEEPALIVE, Proxy
from bench.scenario import Figures, Scenario, Settings


@dataclass(frozen=True)
class Pair:
    """A baseline and a proxy measured together: medians over the slices, of the figures and of their ratios."""

    baseline: Figures
    proxy: Figures
    ratios: Figures

    @classmethod
    def of(cls, baseline: list[Figures], proxy: list[Figures]) -> "Pair":
        together = list(zip(baseline, proxy, strict=True))
        ratios = {
            key: statistics.median(theirs[key] / base[key] for base, theirs in together)
            for key in baseline[0]
            if all(base[key] > 0 for base in baseline)
        }
        return cls(_medians(baseline), _medians(proxy), ratios)


def _medians(slices: list[Figures]) -> Figures:
    return {key: statistics.median(figures[key] for figures in slices) for key in slices[0]}


def _baseline(scenario: Scenario, proxy: Proxy) -> tuple[Proxy, str]:
    """What `proxy` is compared with, and that one's keepalive."""
    if scenario.rules is not None:
        return replace(proxy, name=f"{proxy.name}-no-rules"), scenario.keepalive
    if scenario.pinged:
        return replace(proxy, name=f"{proxy.name}-no-pings"), NO_KEEPALIVE
    return BASELINE, scenario.keepalive


@dataclass
class Comparison:
    """One proxy in one scenario, measured in several pairs; each starts both proxies afresh."""

    scenario: Scenario
    proxy: Proxy
    pairs: list[Pair] = field(default_factory=list)
    error: str | None = None

    def ratios(self, key: str) -> list[float]:
        """The proxy's figure over the baseline's, of each pair (in which that is not 0)."""
        return [pair.ratios[key] for pair in self.pairs if key in pair.ratios]

    @property
    def baseline_name(self) -> str:
        return _baseline(self.scenario, self.proxy)[0].name

    def median(self, key: str) -> float:
        return statistics.median(pair.proxy[key] for pair in self.pairs)

    def median_ratio(self, key: str) -> float:
        return statistics.median(self.ratios(key))


@dataclass(frozen=True)
class Runner:
    """Measures with `load_program` on `cores`; tells `progress` what it is about to do."""

    load_program: Path
    settings: Settings
    cores: Cores
    pairs: int
    progress: Callable[[str], None]

    def compare(self, scenario: Scenario, proxy: Proxy) -> Comparison:
        """Measures `proxy` against its baseline, or nginx alone; a failure is kept in the result."""
        comparison = Comparison(scenario, proxy)
        wanted = self.pairs if scenario.pairs is None else min(self.pairs, scenario.pairs)
        for number in range(wanted):
            together = f"{comparison.baseline_name} and {proxy.name}"
            self.progress(f"{scenario.name}: {together}, pair {number + 1} of {wanted}")
            try:
                comparison.pairs.append(self._measure_pair(scenario, proxy, baseline_first=number % 2 == 0))
            except BenchError as error:
                comparison.error = str(error)
                break
        return comparison

    def _measure_pair(self, scenario: Scenario, proxy: Proxy, *, baseline_first: bool) -> Pair:
        chosen = [_baseline(scenario, proxy)]
        if proxy is not BASELINE:
            chosen.append((proxy, scenario.keepalive))
        with contextlib.ExitStack() as stack:
            tls = stack.enter_context(fresh_certificate(self.settings.tls_version)) if scenario.tls else None
            instances = [
                stack.enter_context(
                    running(
                        each,
                        scenario.workers,
                        keepalive,
                        tls,
                        self.load_program,
                        self.cores,
                        scenario.rules if each is proxy else None,
                        scenario.rules.fields if scenario.rules is not None else "",
                    )
                )
                for each, keepalive in chosen
            ]
            if baseline_first:
                slices = scenario.measure(instances, self.settings)
            else:
                slices = scenario.measure(instances[::-1], self.settings)[::-1]
        return Pair.of(slices[0], slices[-1])
