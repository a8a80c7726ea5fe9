"""``gateway rebalance``: makes the running gateway move tunnels to the backends that ought to have them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.cli.answers import (
    PATIENCE_SECONDS,
    AdminAddress,
    NoAnswer,
    NotDone,
    address_of,
    admin_option,
    ask,
    json_option,
    order,
)
from gateway.cli.options import config_option
from gateway.cli.output import console, duration, interval, plain, print_json, table, visible

LOOK_SECONDS = 0.25
"""How often to query the progress."""

Rebalance = dict[str, Any]
"""As the admin API describes it."""


@click.command(
    help="Move tunnels of the running gateway to the backends that ought to have them. Those that a backend has beyond "
    "its share are closed with code 1012, the longest idle first, evenly spread over the period; under consistent_hash "
    "those whose key belongs elsewhere. Their clients connect again."
)
@config_option
@admin_option
@click.option("--upstream", metavar="NAME", help="Only tunnels of one upstream.")
@click.option("--period", metavar="DURATION", default="2m", show_default=True, help="Time over which they are closed.")
@click.option("--dry-run", is_flag=True, help="Print what would be moved, and move nothing.")
@json_option
def rebalance(path: str, admin: str | None, upstream: str | None, period: str, dry_run: bool, as_json: bool) -> None:
    """Exit with 0 once all has been moved, with 1 if that was cut short, with 2 if there is no such upstream."""
    address = address_of(path, admin)
    query = {"period": period, "dry_run": str(dry_run).lower()}
    if upstream is not None:
        query["upstream"] = upstream
    answer = order("/api/v1/rebalance", address, query)
    begun = [each for each in answer["upstreams"] if not each["done"]]
    if dry_run and as_json:
        print_json(answer)
    elif dry_run:
        _print_plan(answer["upstreams"])
    else:
        if not as_json:
            for each in answer["upstreams"]:
                _say_begun(each)
        over = _followed(begun, path, address) if begun else []
        if as_json:
            print_json({"upstreams": [*over, *(each for each in answer["upstreams"] if each["done"])]})
        else:
            for each in over:
                _say_over(each)
        if failed := [each for each in over if each["error"] is not None]:
            raise NotDone(
                "; ".join(f"{visible(each['upstream'])} was cut short: {visible(each['error'])}" for each in failed)
            )


# --- the plan ---------------------------------------------------------------------------------------------------------


def _print_plan(upstreams: list[Rebalance]) -> None:
    console().print(_plan(upstreams))
    for each in upstreams:
        for note in _notes(each):
            click.echo(f"{visible(each['upstream'])}: {note}", err=True)
    moves = sum(each["left"] for each in upstreams)
    click.echo(f"{_count(moves)} would be closed" if moves else "every tunnel is where it belongs", err=True)


def _plan(upstreams: list[Rebalance]) -> Table:
    rows = table(gap=2)
    for title in ("UPSTREAM", "BALANCE", "BACKEND"):
        rows.add_column(title, no_wrap=True)
    for title in ("TUNNELS", "OUGHT TO HAVE", "TO CLOSE"):
        rows.add_column(title, justify="right", no_wrap=True)
    for each in upstreams:
        for backend in each["backends"]:
            rows.add_row(
                plain(each["upstream"]),
                plain(each["balance"]),
                plain(backend["address"]),
                *(str(backend[key]) for key in ("tunnels", "share", "surplus")),
            )
    return rows


def _notes(each: Rebalance) -> Iterator[str]:
    if each["fixed"]:
        yield f"{_count(each['fixed'])} belong elsewhere but have no Close frames, so they stay"
    if each["unknown"]:
        yield f"{_count(each['unknown'])} opened before what is hashed now was known of them, so they stay"


# --- progress ---------------------------------------------------------------------------------------------------------


def _say_begun(each: Rebalance) -> None:
    name = visible(each["upstream"])
    for note in _notes(each):
        click.echo(f"{name}: {note}", err=True)
    if each["done"]:
        click.echo(f"{name}: every tunnel is where it belongs")
        return
    of = ", ".join(
        f"{backend['surplus']} of {backend['tunnels']} to {visible(backend['address'])}"
        for backend in each["backends"]
        if backend["surplus"]
    )
    click.echo(f"{name}: closing {_count(each['left'])} over {interval(each['period'])}: {of}")


def _say_over(each: Rebalance) -> None:
    has = ", ".join(f"{visible(backend['address'])} has {backend['tunnels']}" for backend in each["backends"])
    ended = f", {each['ended']} ended by themselves" if each["ended"] else ""
    took = duration(each["seconds"])
    click.echo(f"{visible(each['upstream'])}: closed {_count(each['closed'])} in {took}{ended}; {has}")


def _count(tunnels: int) -> str:
    return f"{tunnels} tunnel{'s' * (tunnels != 1)}"


def _followed(begun: list[Rebalance], path: str, address: AdminAddress) -> list[Rebalance]:
    """Wait for the end of rebalances; on a terminal, show their progress until then. Ctrl-C ends only the waiting."""
    names = {each["upstream"]: each for each in begun}
    give_up: float | None = None
    with _bars(begun) as bars:
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                now = ask("/api/v1/status", path, address)["rebalances"]
            except NoAnswer:  # an upgrade may be under way
                give_up = give_up or time.monotonic() + PATIENCE_SECONDS
                if time.monotonic() > give_up:
                    raise
                continue
            give_up = None
            found = {each["upstream"]: each for each in now if each["upstream"] in names}
            for name, each in found.items():
                if each["started"] != names[name]["started"]:
                    found[name] = each | {"done": True, "error": "another rebalance took its place"}
                bars(found[name])
            if len(found) < len(names):
                raise NotDone("the gateway was restarted")
            if all(each["done"] for each in found.values()):
                return list(found.values())


@contextmanager
def _bars(begun: list[Rebalance]) -> Iterator[Any]:
    """Return what shows the progress of a rebalance."""
    if not sys.stderr.isatty():
        yield lambda each: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tunnels closed"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {
            each["upstream"]: progress.add_task(visible(each["upstream"]), total=each["tunnels"]) for each in begun
        }

        def show(each: Rebalance) -> None:
            progress.update(tasks[each["upstream"]], total=each["tunnels"], completed=each["tunnels"] - each["left"])

        yield show
