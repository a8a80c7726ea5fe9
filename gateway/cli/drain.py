"""``gateway drain``: makes the running gateway close its tunnels over time and exit, or close those of one backend."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.cli.answers import NoAnswer, address_of, admin_option, ask, order, wait_until_gone
from gateway.cli.options import config_option
from gateway.cli.output import duration, visible
from gateway.config.address import parse_backend
from gateway.config.errors import BadValue

LOOK_SECONDS = 0.25
"""How often to query the progress."""


@click.command(
    help="Close the tunnels of the running gateway, evenly spread over drain.period; then it exits. "
    "With --backend, close only those of one backend, which gets nothing new until the next reload."
)
@config_option
@admin_option
@click.option("--backend", metavar="ADDR", help="Drain one backend; the gateway does not exit.")
def drain(path: str, admin: str | None, backend: str | None) -> None:
    """Exit with 0 once the last tunnel has ended, 1 if the drain was cut short, 2 if there is no such backend."""
    address = address_of(path, admin)
    query = {"wait": "true"}
    if backend is not None:
        query["backend"] = backend = _canonical(backend)
    answer = _watched(
        _begun(lambda: order("/api/v1/drain", address, query)), lambda: ask("/api/v1/status", path, address), backend
    )
    if backend is None:
        wait_until_gone(address)
    tunnels = answer["tunnels"]
    what = "the gateway has exited" if backend is None else f"{visible(backend)} gets nothing new until the next reload"
    click.echo(f"drained {tunnels} tunnel{'s' * (tunnels != 1)} in {duration(answer['seconds'])}; {what}")


def _canonical(backend: str) -> str:
    try:
        return str(parse_backend(backend))
    except BadValue as error:
        raise click.UsageError(f"--backend: {error}") from None


def _begun(work: Callable[[], Any]) -> Future[Any]:
    """Work in a daemon thread, so that Ctrl-C ends the command but not the drain."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def _watched(result: Future[Any], status: Callable[[], Any], backend: str | None) -> Any:
    """Return the result of a drain; on a terminal, show its progress until then."""
    if not sys.stderr.isatty():
        return result.result()
    columns = (
        TextColumn("draining"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tunnels closed"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("drain", total=None)
        while True:
            try:
                return result.result(LOOK_SECONDS)
            except NotYet:
                pass
            try:
                drains = _drains(status(), backend)
            except NoAnswer:
                continue  # the gateway is exiting; the result follows
            if drains:
                total = sum(drain["tunnels"] for drain in drains)
                progress.update(task, total=total, completed=total - sum(drain["tunnels_left"] for drain in drains))


def _drains(status: dict[str, Any], backend: str | None) -> list[dict[str, Any]]:
    if backend is None:
        return [status["drain"]] if status["drain"] else []
    return [drain for drain in status["drained_backends"] if drain["address"] == backend]
