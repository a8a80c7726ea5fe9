"""Runs scenarios in pairs: nginx and another proxy side by side, taking turns."""

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError
from bench.instance import Cores, running
from bench.proxies import BASELINE, Proxy
from bench.scenarios import Figures, Scenario, Settings


@dataclass(frozen=True)
class Pair:
    """nginx and a proxy measured together: medians over the slices, of the figures and of their ratios."""

    nginx: Figures
    proxy: Figures
    ratios: Figures

    @classmethod
    def of(cls, nginx: list[Figures], proxy: list[Figures]) -> "Pair":
        together = list(zip(nginx, proxy, strict=True))
        ratios = {
            key: statistics.median(theirs[key] / base[key] for base, theirs in together)
            for key in nginx[0]
            if all(base[key] > 0 for base in nginx)
        }
        return cls(_medians(nginx), _medians(proxy), ratios)


def _medians(slices: list[Figures]) -> Figures:
    return {key: statistics.median(figures[key] for figures in slices) for key in slices[0]}


@dataclass
class Comparison:
    """One proxy in one scenario, measured in several pairs; each starts both proxies afresh."""

    scenario: Scenario
    proxy: Proxy
    pairs: list[Pair] = field(default_factory=list)
    error: str | None = None

    def ratios(self, key: str) -> list[float]:
        """The proxy's figure over nginx's, of each pair (in which nginx's is not 0)."""
        return [pair.ratios[key] for pair in self.pairs if key in pair.ratios]

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
        """Measures `proxy` against nginx, or nginx alone; a failure is kept in the result."""
        comparison = Comparison(scenario, proxy)
        wanted = self.pairs if scenario.pairs is None else min(self.pairs, scenario.pairs)
        for number in range(wanted):
            self.progress(f"{scenario.name}: {BASELINE.name} and {proxy.name}, pair {number + 1} of {wanted}")
            try:
                comparison.pairs.append(self._measure_pair(scenario, proxy, nginx_first=number % 2 == 0))
            except BenchError as error:
                comparison.error = str(error)
                break
        return comparison

    def _measure_pair(self, scenario: Scenario, proxy: Proxy, *, nginx_first: bool) -> Pair:
        chosen = [BASELINE] if proxy is BASELINE else [BASELINE, proxy]
        with contextlib.ExitStack() as stack:
            instances = [
                stack.enter_context(running(each, scenario.workers, self.load_program, self.cores)) for each in chosen
            ]
            if nginx_first:
                slices = scenario.measure(instances, self.settings)
            else:
                slices = scenario.measure(instances[::-1], self.settings)[::-1]
        return Pair.of(slices[0], slices[-1])
