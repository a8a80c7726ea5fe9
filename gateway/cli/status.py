"""``gateway status``: shows the state of the running gateway, from its admin API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from gateway.cli.answers import admin_option, ask, json_option
from gateway.cli.options import config_option
from gateway.cli.output import console, duration, interval, plain, print_json, table, visible
from gateway.cli.rules import discovery_problem, route_rules, upstream_rules

EXPIRES_SOON_DAYS = 14


@click.command(help="Show the state of the running gateway, from its admin API.")
@config_option
@admin_option
@json_option
def status(path: str, admin: str | None, as_json: bool) -> None:
    """Exit with 0 if the gateway answers, with 1 if it does not."""
    answer = ask("/api/v1/status", path, admin)
    if as_json:
        print_json(answer)
        return
    out = console()
    out.print(_overview(answer))
    tables = [_workers(answer["workers"]), _routes(answer["routes"]), _backends(answer["upstreams"])]
    tables.insert(2, _rules(answer["routes"], answer["upstreams"]))
    if answer.get("certificates"):
        tables.append(_certificates(answer["certificates"]))
    if answer.get("limited"):
        tables.append(_limited(answer["limited"]))
    if answer.get("credentials"):
        tables.append(_credentials(answer["credentials"]))
    for rows in tables:
        out.print()
        out.print(rows)


def _overview(answer: dict[str, Any]) -> Table:
    reload = answer["configuration"]["last_reload"]
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("state", _state(answer))
    rows.add_row("version", plain(f"{answer['version']}, Python {answer['python']}, {answer['relay']} relay"))
    rows.add_row("up for", duration(answer["uptime"]))
    rows.add_row("tunnels", f"{answer['tunnels']} of at most {answer['max_tunnels']}")
    rows.add_row("listening on", plain(", ".join(answer["listen"])))
    rows.add_row("configuration", plain(f"{answer['configuration']['file']}, in force since {_time(reload['time'])}"))
    if not reload["ok"]:
        rows.add_row("last reload", Text("failed; the previous configuration is still in force", style="red"))
        for line in (reload["error"] or "").splitlines():
            rows.add_row("", plain(line))
    return rows


def _state(answer: dict[str, Any]) -> Text:
    if answer["stopping"]:
        return Text("shutting down", style="yellow")
    return Text("ready", style="green") if answer["ready"] else Text("not ready: no worker accepts", style="red")


def _workers(workers: list[dict[str, Any]]) -> Table:
    rows = _titled("worker", "pid", "state", "started", "tunnels")
    for worker in workers:
        state = Text("ready", style="green") if worker["ready"] else Text("not ready", style="red")
        started = _time(worker["started"]) if worker["started"] is not None else "-"
        pid = "-" if worker["pid"] is None else str(worker["pid"])
        rows.add_row(str(worker["index"]), pid, state, started, str(worker["tunnels"]))
    return rows


def _routes(routes: list[dict[str, Any]]) -> Table:
    rows = _titled("route", "upstream", "tunnels", "silent for over a minute", "client pinged", "backend pinged")
    for route in routes:
        silent = sum(bucket["tunnels"] for bucket in route["idle"] if bucket["le"] is None or bucket["le"] > 60)
        pinged = (_pinged(route["keepalive"][side]) for side in ("client", "backend"))
        rows.add_row(plain(route["name"]), plain(_goal(route)), str(route["tunnels"]), str(silent), *pinged)
    return rows


def _rules(routes: list[dict[str, Any]], upstreams: list[dict[str, Any]]) -> Table:
    """What routes ask of clients, where they ask for something, and how upstreams treat their backends."""
    rows = _titled("rules of", "rules")
    for route in routes:
        if said := route_rules(route):
            rows.add_row(plain(f"route {route['name']}"), plain(said))
    for upstream in upstreams:
        text = plain(upstream_rules(upstream))
        if problem := discovery_problem(upstream):
            text.append(f"; {visible(problem)}", style="red")
        rows.add_row(plain(f"upstream {upstream['name']}"), text)
    return rows


def _goal(route: dict[str, Any]) -> str:
    """Format where a route's requests go: an upstream, shares of several, or a status that it answers itself."""
    if route["answer"] is not None:
        return f"answers {route['answer']}"
    if route["upstream"] is not None:
        return str(route["upstream"])
    total = sum(share["weight"] for share in route["upstreams"])
    return ", ".join(f"{share['name']} {100 * share['weight'] / total:.3g} %" for share in route["upstreams"])


def _pinged(keepalive: dict[str, float | None]) -> str:
    """Format the silence after which a side is sent Pings, and the learned cutoff."""
    ping_after, cutoff = keepalive["interval_seconds"], keepalive["learned_cutoff_seconds"]
    if ping_after is None:
        return "-"
    return f"after {interval(ping_after)}" + ("" if cutoff is None else f", cut at {interval(cutoff)}")


def _backends(upstreams: list[dict[str, Any]]) -> Table:
    rows = _titled("upstream", "backend", "state", "weight", "tunnels")
    for upstream in upstreams:
        for backend in upstream["backends"]:
            state = _backend_state(backend)
            address = plain(backend["address"])
            rows.add_row(plain(upstream["name"]), address, state, str(backend["weight"]), str(backend["tunnels"]))
    return rows


def _backend_state(backend: dict[str, Any]) -> Text:
    """Whether it is in service, and why it is not."""
    why = backend.get("reason")
    text = f": {visible(why)}" if why else ""
    if not backend["up"]:
        return Text(f"down{text}", style="red")
    if backend.get("ejected_until") is not None:
        return Text(f"ejected until {_time(backend['ejected_until'])}{text}", style="red")
    return Text("up", style="green")


def _certificates(certificates: list[dict[str, Any]]) -> Table:
    rows = _titled("certificate", "names", "expires", "state")
    for certificate in certificates:
        days = int(certificate["expires_in"] // 86400)
        if certificate["error"] is not None:
            state = Text("file is broken, the previous one is in use", style="red")
        elif certificate["expires_in"] < 0:
            state = Text("expired", style="red")
        else:
            state = Text(f"{days} day{'s' * (days != 1)} left", style="yellow" if days < EXPIRES_SOON_DAYS else "green")
        names = plain(", ".join(certificate["names"]) or "-")
        rows.add_row(plain(certificate["file"]), names, _time(certificate["expires"]), state)
    return rows


def _limited(limited: list[dict[str, Any]]) -> Table:
    rows = _titled("limited client", "route", "limit", "times", "last")
    for each in limited:
        rows.add_row(
            plain(each["address"]), plain(each["route"]), plain(each["limit"]), str(each["times"]), _time(each["last"])
        )
    return rows


def _credentials(credentials: list[dict[str, Any]]) -> Table:
    rows = _titled("credentials", "in use", "fetched", "state")
    for each in credentials:
        if each["entries"] is None:
            state = Text(visible(each["error"] or "not fetched yet"), style="red")
        elif each["error"] is not None:
            state = Text(visible(f"{each['error']}; what was there before is in use"), style="red")
        else:
            state = Text("good", style="green")
        noun = each["kind"][:-1] if each["entries"] == 1 else each["kind"]
        fetched = "-" if each["fetched"] is None else _time(each["fetched"])
        rows.add_row(plain(each["source"]), f"{each['entries'] or 'no'} {noun}", fetched, state)
    return rows


def _titled(*titles: str) -> Table:
    titled = table(gap=3)
    for title in titles:
        number = title in ("tunnels", "weight", "times") or title.startswith("silent")
        titled.add_column(title.upper(), justify="right" if number else "left", no_wrap=number)
    return titled


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix).astimezone().isoformat(sep=" ", timespec="seconds")
