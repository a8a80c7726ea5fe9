"""Settings of upstreams that can never act, for warnings of `gateway check` and `gateway run`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.config.errors import BadValue
from gateway.config.section import Conflict

if TYPE_CHECKING:
    from gateway.config.schema import Config
    from gateway.config.upstreams import Upstream


def ineffective(config: Config) -> Iterator[Conflict]:
    """Yield each upstream that gets no requests, or has no backend that may get any, and each key of an upstream that
    cannot act on the backends that it has. Those that are discovered may be any number."""
    named = {share.name for route in config.routes for share in route.shares()}
    for name, upstream in config.upstreams.items():
        if name not in named:
            yield _warning((name,), "no route sends requests here", "a route with this upstream")
        for key, message, hint in _of(upstream):
            yield _warning((name, key), message, hint)


def _of(upstream: Upstream) -> Iterator[tuple[str, str, str]]:
    """:returns: key, what is wrong, and what would be right"""
    written = upstream.model_fields_set
    slow_start = "slow_start" in written and upstream.slow_start is not None
    if slow_start and upstream.balance == "consistent_hash":
        yield (
            "slow_start",
            "has no effect with `balance: consistent_hash`: a key has one place, however new its backend is",
            "no `slow_start`",
        )
    if upstream.discover is not None:
        return
    serving = sum(not backend.drain for backend in upstream.backends)
    if not serving:
        yield "backends", "every backend has `drain: true`: requests get 503", "at least one without"
    if serving > 1:
        return
    more = "more backends, or no `{}`"
    if upstream.eject is not None:
        yield (
            "eject",
            "never ejects the only backend: half of an upstream's backends always stay in service",
            f"{more.format('eject')}; `health_check` takes a single backend out of service, too",
        )
    if upstream.rebalance is not None:
        yield "rebalance", "there is no other backend that tunnels could move to", more.format("rebalance")
    if "connect_retries" in written and upstream.connect_retries:
        yield "connect_retries", "there is no other backend that could be tried", more.format("connect_retries")
    if slow_start and upstream.balance != "consistent_hash":
        yield "slow_start", "the only backend gets everything at once, however new it is", more.format("slow_start")


def _warning(key: tuple[str, ...], message: str, hint: str) -> Conflict:
    return Conflict(("upstreams", *key), BadValue(f"warning: {message}", hint))
