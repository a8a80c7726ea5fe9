"""What this gateway has to reach, and whether it did."""

from dataclasses import dataclass

from bench.run import Comparison


@dataclass(frozen=True)
class Target:
    """A bound on a median: of the ratio to the baseline (nginx, or no Pings), or of the figure itself.

    `noise` is the share by which a figure may miss the limit before it counts: where the limit is what was measured,
    one run in two would miss it otherwise.
    """

    proxy: str
    scenario: str
    key: str
    what: str
    limit: float
    unit: str
    at_least: bool = False
    ratio: bool = True
    noise: float = 0.0

    @property
    def bound(self) -> str:
        allowed = f" (noise {self.noise:.0%})" if self.noise else ""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}{self.unit}{allowed}"


@dataclass(frozen=True)
class Verdict:
    """A target beside what was measured; `measured` is None when it could not be."""

    target: Target
    measured: float | None

    @property
    def met(self) -> bool:
        target = self.target
        if self.measured is None:
            return False
        if target.at_least:
            return self.measured >= target.limit * (1 - target.noise)
        return self.measured <= target.limit * (1 + target.noise)

    @property
    def shortfall(self) -> str:
        if self.measured is None:
            return "not measured"
        return f"missed by {abs(self.measured / self.target.limit - 1):.1%}"


TARGETS = [
    Target("gateway", "handshake", "cpu_us", "CPU a handshake", 1.5, "x nginx"),
    Target("gateway", "echo-64-100", "cpu_us", "CPU a 64 B round trip, 100 tunnels", 1.0, "x nginx", noise=0.1),
    Target("gateway", "echo-64-2000", "cpu_us", "CPU a 64 B round trip, 2,000 tunnels", 0.82, "x nginx", noise=0.1),
    Target("gateway", "echo-64k-20", "per_second", "64 KiB round trips a second", 5, "x nginx", at_least=True),
    Target("gateway-pure", "echo-64-100", "cpu_us", "CPU a 64 B round trip, 100 tunnels", 1.4, "x nginx"),
    Target("gateway", "idle-8000", "tunnel_bytes", "memory an idle tunnel", 1700, " B", ratio=False, noise=0.03),
    Target("gateway", "idle-8000", "cpu_percent", "CPU of 8,000 idle tunnels", 1, " % of a core", ratio=False),
    Target("gateway", "idle-8000-pings", "cpu_percent", "CPU, each pinged every 10 s", 3, " % of a core", ratio=False),
    Target("gateway", "idle-8000-pings", "busiest_second", "Pings in any second", 1.5, "x the mean", ratio=False),
    Target("gateway", "idle-8000-pings", "p99_us", "p99 of a busy tunnel beside them", 1.5, "x no Pings"),
    Target("gateway", "http-get", "cpu_us", "CPU a GET", 3.0, "x nginx"),
    Target("gateway", "http-download", "cpu_us", "CPU an answer of 256 KiB", 1.3, "x nginx"),
    Target("gateway", "http-upload", "cpu_us", "CPU a request of 1 MiB", 1.3, "x nginx"),
    Target("gateway", "sse-2000", "stream_bytes", "memory an event stream", 6000, " B", ratio=False),
    Target("gateway", "sse-2000", "cpu_us", "CPU an event", 1.2, "x nginx"),
    Target("gateway", "tls-handshake", "cpu_us", "CPU a full TLS handshake and upgrade", 1.5, "x nginx"),
    Target("gateway", "tls-echo-64-100", "cpu_us", "CPU a 64 B round trip over TLS", 1.0, "x nginx", noise=0.1),
    Target("gateway", "tls-echo-64k-20", "per_second", "64 KiB round trips over TLS", 1.5, "x nginx", at_least=True),
    Target("gateway", "tls-get", "cpu_us", "CPU a GET over TLS", 2.5, "x nginx"),
    Target("gateway", "tls-idle-4000", "tunnel_bytes", "memory an idle tunnel over TLS", 4000, " B", ratio=False),
    Target("gateway", "tls-burst-1000", "p99_us", "p99 beside 1,000 handshakes", 20_000, " us", ratio=False),
    Target("gateway", "handshake-access", "cpu_us", "CPU a handshake, Origin and allow list", 1.05, "x without"),
    Target("gateway", "handshake-jwt", "cpu_us", "CPU a handshake with a token of HS256", 1.4, "x without"),
    Target("gateway", "handshake-backends", "cpu_us", "CPU a handshake, 50 backends", 1.05, "x one backend"),
    Target("gateway", "echo-64-100-messages", "cpu_us", "CPU a round trip, messages_per_second", 1.05, "x without"),
    Target("gateway", "rest-2-workers", "resident_mb", "memory of 2 workers at rest", 65, " MB", ratio=False),
]


def judge(comparisons: list[Comparison]) -> list[Verdict]:
    """Returns a verdict for each target whose proxy and scenario were run."""
    verdicts = []
    for target in TARGETS:
        for comparison in comparisons:
            if (comparison.proxy.name, comparison.scenario.name) != (target.proxy, target.scenario):
                continue
            measured = None
            if comparison.pairs and comparison.error is None:
                median = comparison.median_ratio if target.ratio else comparison.median
                measured = median(target.key)
            verdicts.append(Verdict(target, measured))
    return verdicts
