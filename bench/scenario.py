"""What a scenario is: a load, the figures it gives, and how long a proxy is measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.instance import Instance
from bench.proxies import DEFAULT_KEEPALIVE
from bench.rules import Rules

Figures = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How long a proxy is measured in each pair, and in how many slices, taking turns with nginx."""

    seconds: float = 2.0
    slices: int = 5
    warmup_seconds: float = 0.5
    handshakes: int = 10_000
    warmup_handshakes: int = 1000
    idle_seconds: float = 10.0
    settle_seconds: float = 2.0
    pinged_seconds: float = 30.0
    busy_seconds: float = 10.0
    rest_seconds: float = 10.0
    tls_version: str = "1.3"


@dataclass(frozen=True)
class Metric:
    """A figure: its key, unit as printed, decimals, and whether its ratio to nginx is shown too."""

    key: str
    unit: str
    decimals: int = 1
    as_ratio: bool = True


@dataclass(frozen=True)
class Scenario:
    """A load and its figures. `pairs` caps how often it is repeated (None: as often as asked).

    `measure` takes proxies that run, and returns the figures of each, slice by slice. `keepalive` is our gateway's
    (`proxies.Place`). With `tls`, clients use TLS and backends do not. A `pinged` one compares it with itself without
    Pings instead of nginx, and is for no other proxy; one with `rules` compares it with itself without those.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Sequence[Instance], Settings], list[list[Figures]]]
    workers: int = 1
    pairs: int | None = None
    keepalive: str = DEFAULT_KEEPALIVE
    pinged: bool = False
    tls: bool = False
    rules: Rules | None = None
