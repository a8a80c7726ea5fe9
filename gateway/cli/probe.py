"""``gateway probe``: finds out after how much silence the path to a URL cuts tunnels, how, and what may cause it."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gateway.cli.output import console, plain, table, visible
from gateway.config.durations import parse_duration
from gateway.config.errors import BadValue
from gateway.probe.outcomes import Cut, Failed, Outcome, Rung, Survived
from gateway.probe.planner import Kind, Planner
from gateway.probe.probe import Probe
from gateway.probe.report import Report
from gateway.probe.target import BadTarget, Target, parse_target
from gateway.probe.tunnel import CannotOpen
from gateway.probe.words import duration

_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 24 * 3600.0
_KINDS: dict[Kind, str] = {"ladder": "looking for a limit", "narrowing": "narrowing it", "confirming": "making sure"}


def _seconds(shortest: float, longest: float) -> Callable[[click.Context, click.Parameter, str], float]:
    """Return a callback that parses a duration option, as in gateway.yaml, from ``shortest`` to ``longest`` seconds."""

    def read(_: click.Context, parameter: click.Parameter, text: str) -> float:
        try:
            seconds = parse_duration(text)
        except BadValue as error:
            raise click.BadParameter(str(error)) from None
        if not shortest <= seconds <= longest:
            raise click.BadParameter(f"{text} (from {duration(shortest)} to {duration(longest)})")
        return seconds

    return read


@click.command(
    help="""Find out after how much silence the path to URL (ws:// or wss://) cuts a tunnel.

    Opens about thirty tunnels at a time through everything on the path, and leaves each silent for a different time,
    up to --max. A tunnel that is ended during its silence shows the limit at once. Any other is sent a Ping, which
    shows whether the path has silently forgotten it. Further rounds narrow the limit down and confirm it. The report
    also says how tunnels are ended (FIN, RST, a Close frame, or silence) and which product's default that may be.

    The probe sends nothing but handshakes and Pings. It takes --max if nothing is cut, and at most four times as long.
    Ctrl-C ends it with what is known by then.

    With --json, cutoff_seconds is null if nothing was cut. ping_after_seconds is 0.8 of the longest silence that is
    known to be tolerated; if nothing was cut, that is limited by --max, or by how often the server itself sends
    something. It is null if Pings do not help because tunnels are ended at an age (lifetime_seconds) even if they are
    busy, and if nothing is known because the server answers no Pings.

    Exit status: 0 done; 1 failed or interrupted; 2 wrong usage.
    """
)
@click.argument("url")
@click.option(
    "--max",
    "max_seconds",
    metavar="DURATION",
    callback=_seconds(_SHORTEST_SECONDS, _LONGEST_SECONDS),
    default="5m",
    show_default=True,
    help="Longest silence to try.",
)
@click.option("-H", "--header", "headers", metavar="NAME:VALUE", multiple=True, help="Send this with the handshake.")
@click.option("--subprotocol", "subprotocols", metavar="NAME", multiple=True, help="Offer this subprotocol.")
@click.option("--origin", metavar="ORIGIN", help="Send this Origin.")
@click.option("--insecure", is_flag=True, help="Trust any certificate.")
@click.option(
    "--pong-timeout",
    "pong_timeout_seconds",
    metavar="DURATION",
    callback=_seconds(0.1, 600.0),
    default="5s",
    show_default=True,
    help="How long to wait for the answer to a Ping.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def probe(
    url: str,
    max_seconds: float,
    headers: tuple[str, ...],
    subprotocols: tuple[str, ...],
    origin: str | None,
    insecure: bool,
    pong_timeout_seconds: float,
    as_json: bool,
) -> None:
    """Exit with 0 when done, with 1 if no tunnel can be opened or on Ctrl-C, with 2 if the URL is invalid."""
    try:
        target = parse_target(url, headers, subprotocols, origin)
    except BadTarget as error:
        raise click.UsageError(visible(error)) from None
    longest = Planner(max_seconds, pong_timeout_seconds).longest_seconds
    takes = f"{duration(max_seconds)} if nothing is cut, at most {duration(longest)}"
    click.echo(f"probing {visible(target.url)}: {takes}", err=True)
    with _Progress() as progress:
        context = _context(insecure) if target.tls else None
        try:
            report = asyncio.run(_run(target, max_seconds, pong_timeout_seconds, context, progress))
        except CannotOpen as error:
            raise click.ClickException(visible(error)) from None
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    if report.interrupted:
        sys.exit(1)


async def _run(
    target: Target, max_seconds: float, pong_timeout_seconds: float, context: ssl.SSLContext | None, progress: _Progress
) -> Report:
    probe = Probe(target, max_seconds, pong_timeout_seconds, context, progress)
    try:
        await probe.run()
    except asyncio.CancelledError:  # Ctrl-C cancels the main task
        return probe.report(interrupted=True)
    return probe.report()


def _context(insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


# --- progress -----------------------------------------------------------------------------------------------------


class _Progress:
    """Shows the progress on stderr, if that is a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[known]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True, highlight=False, emoji=False),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None
        self._known = ""

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def round_begins(self, number: int, kind: Kind, rungs: Sequence[Rung], seconds: float) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        what = f"round {number}, {_KINDS[kind]}: {len(rungs)} tunnels, up to {duration(seconds)}"
        self._task = self._progress.add_task(what, total=len(rungs), known=self._known)

    def tunnel_ended(self, rung: Rung, outcome: Outcome) -> None:
        assert self._task is not None
        if not isinstance(outcome, Failed) and rung.role != "busy":
            verb = "cut" if isinstance(outcome, Cut) else "tolerated"
            self._known = f"{duration(outcome.silence_seconds)} {verb}"
        self._progress.update(self._task, advance=1, known=self._known)


# --- the report ---------------------------------------------------------------------------------------------------


def _print(report: Report) -> None:
    out = console()
    out.print(plain(report.sentence()), soft_wrap=True)
    for note in report.notes():
        out.print(plain(f"- {note}"), style="yellow", soft_wrap=True)
    if report.outcomes:
        out.print()
        out.print(_table(report))


def _table(report: Report) -> Any:
    rows = table(gap=3)
    rows.add_column("SILENCE", justify="right", no_wrap=True)
    rows.add_column("TUNNELS")
    shown = [outcome for _, rung, outcome in report.outcomes if rung.role != "busy" and not isinstance(outcome, Failed)]
    shown.sort(key=lambda outcome: outcome.silence_seconds)
    counted: dict[tuple[str, str], int] = {}
    for outcome in shown:
        key = (duration(outcome.silence_seconds), _fate(outcome))
        counted[key] = counted.get(key, 0) + 1
    for (silence, fate), number in counted.items():
        rows.add_row(silence, plain(f"{number} {fate}"))
    return rows


def _fate(outcome: Outcome) -> str:
    match outcome:
        case Cut(ended_by="silence"):
            return "dead: the Ping was not answered"
        case Cut():
            by = {"fin": "FIN", "reset": "RST"}.get(outcome.ended_by, f"Close {outcome.close_code}")
            return f"ended by {by}" + ("" if outcome.by_itself else " in answer to the Ping")
        case Survived():
            return "alive: the Ping was answered"
    return "interrupted by what the server sent"
