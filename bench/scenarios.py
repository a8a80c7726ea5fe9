"""What is measured: each scenario drives proxies that run, by turns, and returns the figures of each."""

from dataclasses import replace
from functools import partial

from bench.burst import bursts
from bench.plain import event_streams, requests
from bench.proxies import NO_KEEPALIVE
from bench.rest import at_rest
from bench.rules import BY_ADDRESS_AND_ORIGIN, BY_TOKEN, FIFTY_BACKENDS, FRAMES, MESSAGES, PER_CLIENT
from bench.scenario import Metric, Scenario
from bench.silence import PING_AFTER_SECONDS, idle, pinged
from bench.tunnels import AT_A_TIME, handshakes, messages

LATENCY_RATE = 2000
BURST = 1000

BUSY = Metric("busy_percent", "% busy", 0, as_ratio=False)
_ECHO = (
    Metric("cpu_us", "us CPU"),
    Metric("per_second", "trips/s", 0),
    Metric("p99_us", "us p99", 0, as_ratio=False),
    BUSY,
)
_IDLE = (Metric("tunnel_bytes", "B a tunnel", 0), Metric("cpu_percent", "% of a core", 2, as_ratio=False))
_PINGED = (
    Metric("cpu_percent", "% of a core", 2, as_ratio=False),
    Metric("pings_a_second", "Pings/s", 0, as_ratio=False),
    Metric("busiest_second", "busiest s", 2, as_ratio=False),
    Metric("longest_silence_seconds", "s silent", 1, as_ratio=False),
    Metric("p99_us", "us p99", 0),
    Metric("p99_at_rate_us", "at rate", 0),
)
_REQUESTS = (
    Metric("cpu_us", "us CPU"),
    Metric("per_second", "a second", 0),
    Metric("p99_us", "us p99", 0, as_ratio=False),
    BUSY,
)
_EVENTS = (Metric("stream_bytes", "B a stream", 0), *_REQUESTS)
_EVERY_SO_OFTEN = f"{{ping_after: {PING_AFTER_SECONDS}s}}"

SCENARIOS = [
    Scenario(
        "handshake",
        f"open, upgrade, close; {AT_A_TIME} at a time",
        (Metric("cpu_us", "us CPU"), Metric("per_second", "a second", 0), BUSY),
        handshakes,
    ),
    Scenario(
        "echo-64-100",
        "64 B round trips, one in flight on each of 100 tunnels",
        _ECHO,
        partial(messages, tunnels=100, payload_bytes=64),
    ),
    Scenario(
        "echo-64-2000",
        "64 B round trips, one in flight on each of 2,000 tunnels",
        _ECHO,
        partial(messages, tunnels=2000, payload_bytes=64),
    ),
    Scenario(
        "echo-64k-20",
        "64 KiB round trips, one in flight on each of 20 tunnels",
        _ECHO,
        partial(messages, tunnels=20, payload_bytes=65536),
    ),
    Scenario(
        "latency",
        f"64 B round trips over 100 tunnels, {LATENCY_RATE} a second whatever comes back",
        (Metric("p50_us", "us p50", 0), Metric("p99_us", "us p99", 0), Metric("cpu_us", "us CPU"), BUSY),
        partial(messages, tunnels=100, payload_bytes=64, rate=LATENCY_RATE),
    ),
    Scenario(
        "idle",
        "2,000 silent tunnels, 1 worker",
        _IDLE,
        partial(idle, tunnels=2000),
        pairs=2,
        keepalive=NO_KEEPALIVE,
    ),
    Scenario(
        "idle-8000",
        "8,000 silent tunnels, 2 workers",
        _IDLE,
        partial(idle, tunnels=8000),
        workers=2,
        pairs=1,
        keepalive=NO_KEEPALIVE,
    ),
    Scenario(
        "idle-8000-pings",
        f"8,000 silent tunnels, 2 workers, a Ping to each client every {PING_AFTER_SECONDS} s",
        _PINGED,
        partial(pinged, tunnels=8000),
        workers=2,
        pairs=3,
        keepalive=f"{{client: {_EVERY_SO_OFTEN}, backend: off}}",
        pinged=True,
    ),
    Scenario(
        "idle-8000-pings-both",
        f"the same with a Ping to each client and each backend every {PING_AFTER_SECONDS} s",
        _PINGED,
        partial(pinged, tunnels=8000),
        workers=2,
        pairs=1,
        keepalive=f"{{client: {_EVERY_SO_OFTEN}, backend: {_EVERY_SO_OFTEN}}}",
        pinged=True,
    ),
    Scenario(
        "http-get",
        "GETs of 50 B, one under way on each of 32 kept-alive connections",
        _REQUESTS,
        partial(requests, kind="get", connections=32),
    ),
    Scenario(
        "http-get-varied",
        "the same, each with a target, a length and an ETag of its own",
        _REQUESTS,
        partial(requests, kind="varied", connections=32),
    ),
    Scenario(
        "http-download",
        "GETs of 256 KiB with Content-Length, one under way on each of 16 connections",
        _REQUESTS,
        partial(requests, kind="download", connections=16),
    ),
    Scenario(
        "http-download-chunked",
        "the same in chunks of 16 KiB",
        _REQUESTS,
        partial(requests, kind="chunked", connections=16),
    ),
    Scenario(
        "http-upload",
        "POSTs of 1 MiB with Content-Length, one under way on each of 8 connections",
        _REQUESTS,
        partial(requests, kind="upload", connections=8),
    ),
    Scenario(
        "sse-2000",
        "an event of 100 B to each of 2,000 open streams, round after round",
        _EVENTS,
        partial(event_streams, streams=2000),
        pairs=3,
    ),
    Scenario(
        "tls-handshake",
        f"connect, full TLS handshake, upgrade, close; {AT_A_TIME} at a time",
        (Metric("cpu_us", "us CPU"), Metric("per_second", "a second", 0), BUSY),
        handshakes,
        tls=True,
    ),
    Scenario(
        "tls-echo-64-100",
        "64 B round trips over TLS, one in flight on each of 100 tunnels",
        _ECHO,
        partial(messages, tunnels=100, payload_bytes=64),
        tls=True,
    ),
    Scenario(
        "tls-echo-64k-20",
        "64 KiB round trips over TLS, one in flight on each of 20 tunnels",
        _ECHO,
        partial(messages, tunnels=20, payload_bytes=65536),
        tls=True,
    ),
    Scenario(
        "tls-get",
        "GETs of 50 B over TLS, one under way on each of 32 kept-alive connections",
        _REQUESTS,
        partial(requests, kind="get", connections=32),
        tls=True,
    ),
    Scenario(
        "tls-idle-4000",
        "4,000 silent tunnels over TLS, 1 worker",
        _IDLE,
        partial(idle, tunnels=4000),
        pairs=2,
        keepalive=NO_KEEPALIVE,
        tls=True,
    ),
    Scenario(
        "tls-burst-1000",
        f"{BURST:,} TLS handshakes and upgrades begin at once beside 100 busy tunnels over TLS",
        (
            Metric("p50_us", "us p50", 0),
            Metric("p99_us", "us p99", 0),
            Metric("burst_ms", "ms until all are done", 0),
            Metric("handshake_p99_ms", "ms p99 of them", 0, as_ratio=False),
        ),
        partial(bursts, tunnels=100, rate=LATENCY_RATE, handshakes=BURST),
        pairs=3,
        tls=True,
    ),
    *(
        Scenario(
            f"handshake-{name}",
            f"open, upgrade, close; {AT_A_TIME} at a time; {what}, compared with none",
            (Metric("cpu_us", "us CPU"), Metric("per_second", "a second", 0), BUSY),
            handshakes,
            rules=rules,
        )
        for name, what, rules in (
            ("access", "Origin and an allow list of 201 networks", BY_ADDRESS_AND_ORIGIN),
            ("jwt", "a token of HS256", BY_TOKEN),
            ("limits", "two limits for each client", PER_CLIENT),
            ("backends", "50 backends in 4 upstreams with health checks", FIFTY_BACKENDS),
        )
    ),
    *(
        Scenario(
            f"echo-64-100-{name}",
            f"64 B round trips, one in flight on each of 100 tunnels; {what}, compared with none",
            _ECHO,
            partial(messages, tunnels=100, payload_bytes=64),
            rules=rules,
        )
        for name, what, rules in (
            ("messages", "with messages_per_second", MESSAGES),
            ("frames", "with frame_size", FRAMES),
        )
    ),
    Scenario(
        "rest-2-workers",
        "2 workers that have done nothing for 10 s",
        (Metric("resident_mb", "MB", 1),),
        at_rest,
        workers=2,
        pairs=1,
    ),
]


def resized_idle(tunnels: int, workers: int) -> Scenario:
    """Returns the `idle` scenario with another number of tunnels and workers."""
    usual = next(scenario for scenario in SCENARIOS if scenario.name == "idle")
    title = f"{tunnels:,} silent tunnels, {workers} worker{'s' * (workers > 1)}"
    return replace(usual, title=title, workers=workers, measure=partial(idle, tunnels=tunnels))
