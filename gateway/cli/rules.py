"""Words for what routes ask of clients and how upstreams treat backends, as ``/api/v1/status`` has them."""

from __future__ import annotations

from typing import Any

from gateway.cli.output import interval, size

MOST_SHOWN = 4
"""Of a list."""


def route_rules(route: dict[str, Any]) -> str:
    """Return a route's rules in one line; empty if it has none, or the gateway is older and says nothing of them."""
    rules = route.get("rules") or {}
    parts = [f"auth {rules['auth']}"] if rules.get("auth") else []
    parts += [f"{name} {_list(rules[name])}" for name in ("origins", "allow", "deny") if rules.get(name)]
    limits = rules.get("limits") or {}
    for name, each in (("handshakes", "client"), ("messages", "tunnel")):
        if rate := limits.get(f"{name}_per_second"):
            burst = "" if rate["burst"] == rate["per_second"] else f" (burst {rate['burst']})"
            parts.append(f"{rate['per_second']:g} {name}/s per {each}{burst}")
    if limits.get("tunnels_per_client"):
        parts.append(f"{limits['tunnels_per_client']} tunnels per client")
    if limits.get("frame_size"):
        parts.append(f"frames up to {size(limits['frame_size'])}")
    return "; ".join(parts)


def upstream_rules(upstream: dict[str, Any]) -> str:
    """Return in one line how an upstream's backends are chosen, found and checked."""
    rules = upstream.get("rules") or {}
    hashed = f" on {rules['hash_on']}" if rules.get("hash_on") else ""
    parts = [f"{upstream['balance']}{hashed}"]
    if check := rules.get("health_check"):
        target = f" {check['target']}" if check["target"] else ""
        drains = ", drained when down" if check["on_down"] == "drain" else ""
        parts.append(f"checked by {check['kind']}{target} every {interval(check['every'])}{drains}")
    if eject := rules.get("eject"):
        within, time = interval(eject["within"]), interval(eject["for"])
        parts.append(f"ejected for {time} after {eject['failures']} failures within {within}")
    if rebalance := rules.get("rebalance"):
        parts.append(f"rebalanced over {interval(rebalance['period'])}")
    if discovery := upstream.get("discovery"):
        parts.append(f"found by {discovery['source']}")
    return "; ".join(parts)


def discovery_problem(upstream: dict[str, Any]) -> str | None:
    """Return why an upstream's backends cannot be found now; None if they can, or are not looked for."""
    error = (upstream.get("discovery") or {}).get("error")
    return None if error is None else str(error)


def _list(items: list[str]) -> str:
    more = f" and {len(items) - MOST_SHOWN} more" if len(items) > MOST_SHOWN else ""
    return ", ".join(items[:MOST_SHOWN]) + more
