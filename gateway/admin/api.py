"""The admin API's answers, as plain data for JSON: snake_case, durations in seconds, times as Unix seconds.

:func:`status` and :func:`tunnels` read the table and the supervisor's state; no worker is involved. One function builds
each object, and describes it.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from gateway.admin.idle import IDLE_BUCKETS_SECONDS, IdleDistribution, idle_by_route
from gateway.admin.keepalive import keepalive_now
from gateway.admin.limited import limited_clients
from gateway.admin.live import LiveRow, live_rows, still_holds
from gateway.admin.rebalances import rebalance
from gateway.admin.rules import route_rules, upstream_rules
from gateway.admin.state import BackendState, DrainState, GatewayState, is_up
from gateway.admin.totals import blocks_of
from gateway.build import relay_build
from gateway.config.address import Address, parse_backend
from gateway.config.durations import parse_duration
from gateway.config.errors import BadValue
from gateway.config.schema import Config, Route
from gateway.config.words import known, quoted
from gateway.observe.ends import tunnel_id
from gateway.protocol.scanner_state import FRAMES, OPEN, STATUS
from gateway.routing.registry import Registry
from gateway.tunnels.table.layout import (
    BYTES,
    LAST_NS,
    NEVER,
    OPENED_NS,
    OPENED_UNIX_NS,
    PING_AFTER_NS,
    PONG_NS,
    RTT_NS,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
)
from gateway.version import VERSION

NS = 1e9
DEFAULT_LIMIT = 1000
MAX_LIMIT = 1_048_576
"""The largest number of tunnels that a table can hold."""

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Object: TypeAlias = dict[str, Json]
_Value = TypeVar("_Value")


class BadQuery(Exception):
    """A query that cannot be answered; ``str()`` says what is wrong with it and what would be right."""


@dataclass(frozen=True, slots=True)
class TunnelQuery:
    """A filter for tunnels; None matches any."""

    route: str | None = None
    backend: str | None = None
    idle_over_seconds: float | None = None
    limit: int = DEFAULT_LIMIT


def parse_query(items: Iterable[tuple[str, str]], registry: Registry) -> TunnelQuery:
    """Read the parameters of a request for tunnels: ``route``, ``backend``, ``idle_over`` and ``limit``.

    :raises BadQuery: one is unknown, given twice, or has an invalid value
    """
    given = known_only(items, _PARAMETERS)
    return TunnelQuery(
        route=_route(given["route"], registry) if "route" in given else None,
        backend=_backend(given["backend"], registry) if "backend" in given else None,
        idle_over_seconds=_idle_over(given["idle_over"]) if "idle_over" in given else None,
        limit=_limit(given["limit"]) if "limit" in given else DEFAULT_LIMIT,
    )


def known_only(items: Iterable[tuple[str, _Value]], names: Collection[str]) -> dict[str, _Value]:
    """Return the parameters by name. :raises BadQuery: one is not among ``names``, or is given twice"""
    given: dict[str, _Value] = {}
    for name, value in items:
        if name not in names:
            raise BadQuery(f"unknown parameter {quoted(name)} ({known(name, names, 'there are')})")
        if name in given:
            raise BadQuery(f"{name} is given twice (once)")
        given[name] = value
    return given


def backend_numbers(text: str, registry: Registry) -> frozenset[int]:
    """Return a backend's numbers: one per upstream that it is in, or was in and still has tunnels of.

    :raises BadQuery: there is no such backend
    """
    address = _backend(text, registry)
    return frozenset(number for number, (_, each) in enumerate(registry.backends) if each == address)


def upstream_name(name: str, config: Config) -> str:
    """Return the name of an upstream. :raises BadQuery: there is none with this name"""
    if name not in config.upstreams:
        raise BadQuery(f"there is no upstream {quoted(name)} ({known(name, list(config.upstreams), 'there are')})")
    return name


def seconds(name: str, text: str) -> float:
    """Return a parameter in seconds, given as a number or as a duration. :raises BadQuery: it is neither"""
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return parse_duration(text)
    except BadValue:
        raise BadQuery(f"{name} is {quoted(text)} (seconds or a duration, such as 60, 90s or 5m)") from None


def status(state: GatewayState) -> Object:
    """``GET /api/v1/status``: the gateway, its configuration, and its tunnels by worker, route and backend."""
    state.refresh(True)
    rows = live_rows(state.table, state.registry)
    config = state.config
    listen: list[Json] = [str(listener.address) for listener in config.listen]
    return {
        "version": VERSION,
        "python": platform.python_version(),
        "relay": relay_build(),
        "started": state.started_unix,
        "uptime": round(max(0.0, time.time() - state.started_unix), 3),
        "ready": state.ready,
        "stopping": state.stopping,
        "drain": _drain(state.drain, len(rows)) if state.drain else None,
        "tunnels": len(rows),
        "max_tunnels": state.max_tunnels,
        "listen": listen,
        "admin": str(config.admin.address),
        "demo": {"url": demo_url(config)} if state.demo else None,
        "configuration": {
            # A file's name may hold bytes that are not UTF-8.
            "file": os.fsencode(state.config_path).decode("utf-8", "replace"),
            "last_reload": {
                "ok": state.last_reload_ok,
                "time": state.last_reload_unix,
                "error": state.last_reload_error,
            },
        },
        "upgrade": _upgrade(state),
        "workers": _workers(state, rows),
        "worker_restarts": state.worker_restarts,
        "routes": _routes(state, rows),
        "upstreams": _upstreams(state, rows),
        "drained_backends": _drained_backends(state, rows),
        "rebalances": [rebalance(each) for each in state.rebalances.values()],
        "certificates": _certificates(state),
        "credentials": _credentials(state),
        "limited": _limited(state),
    }


def tunnels(state: GatewayState, query: TunnelQuery) -> Object:
    """``GET /api/v1/tunnels``: the live tunnels that match a query, the longest silent first.

    ``total`` is how many match, before ``limit`` applies.
    """
    registry = state.registry
    state.refresh(True)
    asked = [row for row in live_rows(state.table, registry) if _matches(row, query, registry)]
    asked.sort(key=lambda row: (-row.idle_ns, row.id))
    found: list[Json] = [tunnel for row in asked[: query.limit] if (tunnel := _tunnel(state, row)) is not None]
    return {"total": len(asked), "limit": query.limit, "tunnels": found}


def limited(state: GatewayState) -> Object:
    """``GET /api/v1/limited``: the clients that a limit has refused last, the latest first."""
    return {"limited": _limited(state)}


def demo_url(config: Config) -> str | None:
    """Return the gateway's URL for a browser on this machine; None if it listens only on Unix sockets."""
    for listener in config.listen:
        if listener.address.host is not None:
            reachable = _WILDCARDS.get(listener.address.host, listener.address.host)
            return f"ws://{Address(reachable, listener.address.port)}/"
    return None


# A Content-Security-Policy cannot name an IPv6 address, so `localhost` stands for every interface of that kind.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "localhost"}
_PARAMETERS = ("route", "backend", "idle_over", "limit")
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?", re.ASCII)


def _route(name: str, registry: Registry) -> str:
    if name not in registry.routes:
        raise BadQuery(f"there is no route {quoted(name)} ({known(name, registry.routes, 'there are')})")
    return name


def _backend(text: str, registry: Registry) -> str:
    addresses = registry.addresses()
    try:
        address = str(parse_backend(text))
    except BadValue as error:
        raise BadQuery(f"backend: {error}") from None
    if address not in addresses:
        raise BadQuery(f"there is no backend {quoted(address)} ({known(address, addresses, 'there are')})")
    return address


def _idle_over(text: str) -> float:
    return seconds("idle_over", text)


def _limit(text: str) -> int:
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise BadQuery(f"limit is {quoted(text)} (a number from 1 to {MAX_LIMIT})")
    return limit


def _matches(row: LiveRow, query: TunnelQuery, registry: Registry) -> bool:
    return (
        (query.route is None or registry.routes[row.route] == query.route)
        and (query.backend is None or registry.backends[row.backend][1] == query.backend)
        and (query.idle_over_seconds is None or row.idle_ns >= query.idle_over_seconds * NS)
    )


def _tunnel(state: GatewayState, found: LiveRow) -> Object | None:
    """Return one tunnel; None if it has ended meanwhile.

    ``sides`` describes what the client and the backend have sent. ``last_rtt_seconds`` is None before the first Pong,
    ``interval_seconds`` is None if the gateway sends no Pings.
    """
    table, row = state.table, found.row
    cells = table.cells[row : row + SIDE_0 + 2 * SIDE_CELLS].tolist()
    texts = table.texts(row)
    if not still_holds(table, row, found.id):
        return None
    now = time.monotonic_ns()
    is_scanned = all(cells[SIDE_0 + side * SIDE_CELLS + SCANNER + STATUS] == OPEN for side in range(2))
    sides: Object = {}
    for side, name in enumerate(SIDES):
        at = SIDE_0 + side * SIDE_CELLS
        interval = cells[at + PING_AFTER_NS] if is_scanned else NEVER
        sides[name] = {
            "idle_seconds": _seconds(now - max(cells[at + LAST_NS], cells[at + PONG_NS], cells[OPENED_NS])),
            "bytes": cells[at + BYTES],
            "frames": cells[at + SCANNER + FRAMES],
            "last_rtt_seconds": cells[at + RTT_NS] / NS if cells[at + RTT_NS] else None,
            "interval_seconds": None if interval == NEVER else interval / NS,
        }
    upstream, backend = state.registry.backends[found.backend]
    return {
        "id": tunnel_id(found.id),
        "route": state.registry.routes[found.route],
        "upstream": upstream,
        "backend": backend,
        "client_address": texts["client"],
        "host": texts["host"],
        "path": texts["path"],
        "subprotocol": texts["subprotocol"] or None,
        "request_id": texts["request_id"] or None,
        "worker": table.index_of(found.slot),
        "opened": round(cells[OPENED_UNIX_NS] / NS, 3),
        "age_seconds": _seconds(now - cells[OPENED_NS]),
        "idle_seconds": _seconds(found.idle_ns),
        "sides": sides,
    }


def _upgrade(state: GatewayState) -> Object | None:
    """Return the latest upgrade; ``ok`` is None while it is in progress, ``time`` is when that state began."""
    upgrade = state.upgrade
    return None if upgrade is None else {"ok": upgrade.ok, "time": upgrade.unix, "error": upgrade.error}


def _workers(state: GatewayState, rows: list[LiveRow]) -> list[Json]:
    """Return all workers. ``pid`` and ``started`` are None while a dead worker is being replaced."""
    counts = Counter(row.slot for row in rows)
    return [
        {
            "index": worker.index,
            "pid": worker.pid or None,
            "started": worker.started_unix if worker.pid else None,
            "ready": worker.ready,
            "tunnels": counts[worker.slot],
        }
        for worker in state.workers
    ]


def _routes(state: GatewayState, rows: list[LiveRow]) -> list[Json]:
    """Return all configured routes, in order, with their live tunnels by length of silence."""
    registry = state.registry
    idle = idle_by_route(rows, len(registry.routes))
    found: list[Json] = []
    for route in state.config.routes:
        distribution = idle[registry.route(route.name)]
        found.append(
            {
                "name": route.name,
                "upstream": route.upstream,
                "upstreams": [{"name": share.name, "weight": share.weight} for share in route.shares()],
                "answer": own.status if (own := route.redirect or route.respond) is not None else None,
                "rules": route_rules(route),
                "tunnels": distribution.tunnels,
                "idle": _buckets(distribution),
                "keepalive": {name: _keepalive(state, route, side) for side, name in enumerate(SIDES)},
            }
        )
    return found


def _keepalive(state: GatewayState, route: Route, side: int) -> Object:
    """Return the silence after which a side is sent Pings, and the learned cutoff: the shortest, if networks differ.

    ``interval_seconds`` is None if no Pings are sent, ``learned_cutoff_seconds`` while no cutoff is known.
    """
    blocks = blocks_of(state.table, state.registry.route(route.name), side)
    return {**keepalive_now(blocks, side, state.config, route)._asdict()}


def _buckets(idle: IdleDistribution) -> list[Json]:
    """Return counts of tunnels silent for up to ``le`` seconds but more than the previous ``le``; the last is open."""
    bounds = (*IDLE_BUCKETS_SECONDS, None)
    return [{"le": bound, "tunnels": count} for bound, count in zip(bounds, idle.counts, strict=True)]


def _upstreams(state: GatewayState, rows: list[LiveRow]) -> list[Json]:
    """Return all configured upstreams with their backends. ``up``: by health checks; without, the last connection."""
    counts = Counter(row.backend for row in rows)
    found: list[Json] = []
    config = state.config
    for name, upstream in config.upstreams.items():
        backends: list[Json] = []
        for backend in state.backends_of(config, name):
            address = str(backend.address)
            number = state.registry.backend(name, address)
            backends.append(
                {
                    "address": address,
                    "up": is_up(state, number),
                    **_health(state.backend_states.get(number)),
                    "drained": backend.drain or number in state.drained_backends,
                    "weight": backend.weight,
                    "max_tunnels": backend.max_tunnels,
                    "backup": backend.backup,
                    "tunnels": counts[number],
                }
            )
        discovery = state.discoveries.get(name)
        found.append(
            {
                "name": name,
                "balance": upstream.balance,
                "rules": upstream_rules(upstream),
                "discovery": None
                if discovery is None
                else {"source": discovery.source, "error": discovery.error, "answered": discovery.unix},
                "backends": backends,
            }
        )
    return found


def _health(found: BackendState | None) -> Object:
    """Return whether a backend is in service.

    ``health`` is ``unknown``, ``up`` or ``down``; None without health checks. ``since`` is when that or its ejection
    changed last, and ``reason`` why; None for never. ``ejected_until`` is None unless it is ejected.
    """
    return {
        "health": None if found is None else found.health,
        "since": None if found is None else found.since_unix,
        "reason": None if found is None else found.reason,
        "ejected_until": None if found is None else found.ejected_until_unix,
    }


def _drained_backends(state: GatewayState, rows: list[LiveRow]) -> list[Json]:
    """Return all backends that get nothing new, even those that are no longer configured."""
    counts = Counter(row.backend for row in rows)
    found: list[Json] = []
    for number, drain in state.drained_backends.items():
        upstream, address = state.registry.backends[number]
        found.append({"upstream": upstream, "address": address, **_drain(drain, counts[number])})
    return found


def _certificates(state: GatewayState) -> list[Json]:
    """Return the certificates in use. ``error``: what is wrong with the file, while the previous one stays in use."""
    return [
        {
            "file": os.fsencode(certificate.file).decode("utf-8", "replace"),
            "names": list(certificate.names),
            "expires": certificate.expires_unix,
            "expires_in": round(certificate.expires_unix - time.time(), 3),
            "error": certificate.error,
        }
        for certificate in state.certificates
    ]


def _limited(state: GatewayState) -> list[Json]:
    return [{**each._asdict()} for each in limited_clients(state)]


def _credentials(state: GatewayState) -> list[Json]:
    """Return the files of users and keys, and the key sets that are fetched.

    ``entries``: how many are in use; ``error``: what is wrong, while those from before stay in use; ``fetched``: when
    that last succeeded.
    """
    return [
        {
            "source": os.fsencode(each.source).decode("utf-8", "replace"),
            "kind": each.kind,
            "entries": each.entries,
            "fetched": each.unix,
            "error": each.error,
        }
        for each in state.credentials
    ]


def _drain(drain: DrainState, left: int) -> Object:
    """Return a drain; ``tunnels`` were open when it began."""
    return {
        "started": drain.started_unix,
        "period": drain.period_seconds,
        "tunnels": drain.tunnels,
        "tunnels_left": left,
    }


def _seconds(ns: int) -> float:
    return round(max(0, ns) / NS, 3)
