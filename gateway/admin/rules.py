"""What routes ask of clients, and how upstreams treat their backends, as plain data for JSON. Never a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.settings_access import Rate

if TYPE_CHECKING:
    from gateway.admin.api import Json, Object
    from gateway.config.auth import Auth
    from gateway.config.health import HealthCheck
    from gateway.config.limits import Limits
    from gateway.config.schema import Route, Upstream


def route_rules(route: Route) -> Object:
    """Whom a route lets in, and how much they may do: as in the file, and null or empty for what is absent."""
    origins: list[Json] = [*route.origins]
    allow: list[Json] = [*map(str, route.allow)]
    deny: list[Json] = [*map(str, route.deny)]
    return {
        "origins": origins,
        "allow": allow,
        "deny": deny,
        "auth": None if route.auth is None else _method(route.auth),
        "limits": None if route.limits is None else _limits(route.limits),
    }


def upstream_rules(upstream: Upstream) -> Object:
    """How a backend is chosen and taken out of service. Durations in seconds."""
    eject, rebalance = upstream.eject, upstream.rebalance
    return {
        "hash_on": upstream.resolved_hash_on(),
        "slow_start": upstream.slow_start,
        "health_check": None if upstream.health_check is None else _check(upstream.health_check),
        "eject": None if eject is None else {"failures": eject.failures, "within": eject.within, "for": eject.for_},
        "rebalance": None if rebalance is None else {"settle": rebalance.settle, "period": rebalance.period},
    }


def _check(check: HealthCheck) -> Object:
    """The query of what is asked for may be secret."""
    path = check.target.partition("?")[0] or None
    return {"kind": check.kind, "target": path, "every": check.every, "on_down": check.on_down}


def _method(auth: Auth) -> str:
    return "jwt" if auth.jwt is not None else "basic" if auth.basic is not None else "forward"


def _limits(limits: Limits) -> Object:
    handshakes, messages = limits.handshakes_per_second, limits.messages_per_second
    return {
        "handshakes_per_second": None if handshakes is None else _rate(handshakes.per_client, handshakes.burst),
        "tunnels_per_client": limits.tunnels_per_client,
        "frame_size": limits.frame_size,
        "messages_per_second": None if messages is None else _rate(messages.per_tunnel, messages.burst),
    }


def _rate(per_second: float, burst: int | None) -> Object:
    return {**Rate.of(per_second, burst)._asdict()}
