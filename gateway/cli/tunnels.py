"""``gateway tunnels``: lists the live tunnels of the running gateway, the longest silent first."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from gateway.cli.answers import admin_option, ask, json_option
from gateway.cli.options import config_option
from gateway.cli.output import console, duration, interval, plain, print_json, round_trip, size, table


@click.command(help="List the live tunnels of the running gateway, the longest silent first.")
@config_option
@admin_option
@click.option(
    "--idle-over", metavar="DURATION", help="Only those where both sides were silent for longer, such as 60s."
)
@click.option("--route", metavar="NAME", help="Only those of one route.")
@click.option("--backend", metavar="ADDR", help="Only those to one backend.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most this many; 1000 if absent.")
@json_option
def tunnels(
    path: str,
    admin: str | None,
    idle_over: str | None,
    route: str | None,
    backend: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Exit with 0 if the gateway answers, with 1 if it does not, with 2 if it has no such route or backend."""
    asked = {"idle_over": idle_over, "route": route, "backend": backend, "limit": limit}
    query = {name: str(value) for name, value in asked.items() if value is not None}
    answer = ask("/api/v1/tunnels", path, admin, query)
    if as_json:
        print_json(answer)
        return
    shown, total = len(answer["tunnels"]), answer["total"]
    if shown:
        console().print(_table(answer["tunnels"]))
    filtered = query.keys() - {"limit"}
    if not shown:
        click.echo("no tunnel matches" if filtered else "no tunnels are open", err=True)
    elif shown < total:
        click.echo(f"{shown} of {total}; --limit {total} shows them all", err=True)


def _table(found: list[dict[str, Any]]) -> Table:
    rows = table(gap=2)
    for title in ("ID", "ROUTE", "BACKEND", "CLIENT"):
        rows.add_column(title, no_wrap=True)
    rows.add_column("PATH", overflow="ellipsis")  # a narrow terminal cuts this column
    for title in ("AGE", "CLIENT IDLE", "BACKEND IDLE", "CLIENT RTT", "BACKEND RTT", "FROM CLIENT", "FROM BACKEND"):
        rows.add_column(title, justify="right", no_wrap=True)
    for tunnel in found:
        client, backend = tunnel["sides"]["client"], tunnel["sides"]["backend"]
        names = ("id", "route", "backend", "client_address", "path")
        rows.add_row(
            *(plain(tunnel[name]) for name in names),
            duration(tunnel["age_seconds"]),
            _silence(client),
            _silence(backend),
            round_trip(client["last_rtt_seconds"]),
            round_trip(backend["last_rtt_seconds"]),
            size(client["bytes"]),
            size(backend["bytes"]),
        )
    return rows


def _silence(side: dict[str, Any]) -> str:
    """Format how long a side has been silent and, if it is sent Pings, after how much silence."""
    ping_after = side["interval_seconds"]
    silent = duration(side["idle_seconds"])
    return silent if ping_after is None else f"{silent} of {interval(ping_after)}"
