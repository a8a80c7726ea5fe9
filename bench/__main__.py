"""`python -m bench`: the side-by-side benchmark. See bench/README.md."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from rich.console import Console

from bench.build import NO_HEADERS, build_load, speaks_tls
from bench.errors import BenchError
from bench.instance import Cores
from bench.proxies import BASELINE, SUBJECTS, Proxy
from bench.report import print_scenario, print_targets, write_json
from bench.run import Comparison, Runner
from bench.scenario import Scenario, Settings
from bench.scenarios import SCENARIOS, resized_idle
from bench.targets import TARGETS, judge

FAILED, USAGE, INTERRUPTED = 1, 2, 130
FILE_WIDTH = 140


def main() -> int:
    options = _parse()
    console, status = Console(), Console(stderr=True, soft_wrap=True)
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)  # rich takes a pipe for 80 columns
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with SIGINT ignored
        signal.signal(number, _interrupt)
    comparisons: list[Comparison] = []
    settings = Settings(
        seconds=options.seconds,
        handshakes=options.handshakes,
        idle_seconds=options.idle_seconds,
        tls_version=options.tls_version,
    )
    try:
        proxies = _choose_proxies(options, status)
        program = build_load()
        scenarios = _choose_scenarios(options, status, speaks_tls(program))
        runner = Runner(program, settings, _cores(options.pin), options.pairs, _progress(status))
        for scenario in scenarios:
            of_scenario = []
            for proxy in proxies:
                if (options.check and not _has_target(proxy, scenario)) or not _can_run(proxy, scenario):
                    continue
                of_scenario.append(runner.compare(scenario, proxy))
                comparisons.append(of_scenario[-1])
            if of_scenario:
                print_scenario(console, scenario, of_scenario)
    except BenchError as error:
        status.print(f"bench: {error}", style="red", markup=False)
        return USAGE
    except KeyboardInterrupt:
        status.print("bench: interrupted; everything it started has been ended")
        return INTERRUPTED
    verdicts = judge(comparisons)
    if verdicts:
        print_targets(console, verdicts)
    if options.json is not None:
        versions = {proxy.name: proxy.version(found) for proxy in [BASELINE, *proxies] if (found := proxy.find())}
        write_json(options.json, comparisons, verdicts, settings, versions, options.pin)
    failed = any(comparison.error is not None for comparison in comparisons)
    missed = options.check and any(not verdict.met for verdict in verdicts)
    return FAILED if failed or missed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures this gateway and other proxies beside nginx, in interleaved pairs.",
    )
    names = [BASELINE.name, *(proxy.name for proxy in SUBJECTS)]
    add = parser.add_argument
    add("--proxies", help=f"comma-separated, of: {', '.join(names)} (default: all that are installed)")
    add("--scenarios", help=f"comma-separated, of: {', '.join(scenario.name for scenario in SCENARIOS)}")
    add(
        "--pairs",
        type=_positive,
        default=5,
        help="how often both proxies are started and measured (default 5)",
    )
    add("--seconds", type=float, default=Settings.seconds, help="of echo or latency for a proxy in a pair")
    add("--handshakes", type=_positive, default=Settings.handshakes, help="for a proxy in a pair")
    add("--idle-seconds", type=float, default=Settings.idle_seconds, help="to watch idle tunnels for")
    add("--idle-tunnels", type=_positive, help="tunnels of the idle scenario (default 2000)")
    add(
        "--tls-version",
        choices=["1.2", "1.3"],
        default=Settings.tls_version,
        help="of scenarios with TLS (default 1.3)",
    )
    add("--workers", type=_positive, help="workers of the idle scenario (default 1)")
    add(
        "--pin",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="the proxy on core 0 and the load on core 1 (default: no; bench/README.md says why)",
    )
    add(
        "--self",
        action="store_true",
        help="nginx against a second nginx: how far from 1 the ratios of equals lie on this machine",
    )
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add(
        "--check",
        action="store_true",
        help="measure only what has a target; exit 1 when one is missed, and say by how much",
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _choose_proxies(options: argparse.Namespace, status: Console) -> list[Proxy]:
    if BASELINE.find() is None:
        raise BenchError("everything is compared with nginx, and there is none: apt-get install nginx-light")
    if options.self:
        return [replace(BASELINE, name="nginx-again")]
    known = {proxy.name: proxy for proxy in [BASELINE, *SUBJECTS]}
    if options.proxies is not None:
        names = options.proxies.split(",")
        if unknown := [name for name in names if name not in known]:
            raise BenchError(f"no proxy {', '.join(unknown)}; there are {', '.join(known)}")
        chosen = [known[name] for name in names]
        if missing := [proxy.program for proxy in chosen if proxy.find() is None]:
            raise BenchError(f"not on PATH: {', '.join(missing)}")
        # nginx is measured with every other, and alone only when there is no other
        return [proxy for proxy in chosen if proxy is not BASELINE] or [BASELINE]
    if missing := [proxy.name for proxy in SUBJECTS if proxy.find() is None]:
        status.print(f"bench: left out, not on PATH: {', '.join(missing)}")
    return [proxy for proxy in SUBJECTS if proxy.find() is not None]


def _choose_scenarios(options: argparse.Namespace, status: Console, tls: bool) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if options.idle_tunnels or options.workers:
        known["idle"] = resized_idle(options.idle_tunnels or 2000, options.workers or 1)
    if options.scenarios is None:
        if not tls:
            status.print(f"bench: scenarios with TLS are left out; the load program is {NO_HEADERS}")
        return [scenario for scenario in known.values() if tls or not scenario.tls]
    names = options.scenarios.split(",")
    if unknown := [name for name in names if name not in known]:
        raise BenchError(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    if not tls and (without := [name for name in names if known[name].tls]):
        raise BenchError(f"cannot measure {', '.join(without)}: the load program is {NO_HEADERS}")
    return [known[name] for name in names]


def _has_target(proxy: Proxy, scenario: Scenario) -> bool:
    return any((target.proxy, target.scenario) == (proxy.name, scenario.name) for target in TARGETS)


def _can_run(proxy: Proxy, scenario: Scenario) -> bool:
    return (proxy.relay is not None or not (scenario.pinged or scenario.rules)) and (proxy.tls or not scenario.tls)


def _cores(pin: bool) -> Cores:
    if not pin:
        return Cores(None, None)
    first, *rest = sorted(os.sched_getaffinity(0))
    if not rest:
        raise BenchError("--pin needs two cores")
    return Cores({first}, {rest[0]})


def _progress(status: Console) -> Callable[[str], None]:
    return lambda text: status.print(text, style="dim", markup=False, highlight=False)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
