"""``gateway run``: runs the gateway in the foreground."""

from __future__ import annotations

import click

from gateway.cli.options import config_option
from gateway.imports import without_collections
from gateway.processes.template import fork_template


@click.command(help="Run the gateway in the foreground.")
@config_option
@click.option("--inherit", type=int, hidden=True, help="In an upgrade: a descriptor.")
@click.option(
    "--try",
    "trial",
    is_flag=True,
    hidden=True,
    help="In an upgrade: only check that this program can take over, then exit.",
)
def run(path: str, inherit: int | None, trial: bool) -> None:
    """Run until a signal ends it: TERM drains first, INT and QUIT exit at once. HUP reloads the configuration, USR1
    reopens the logs, USR2 upgrades the program."""
    template = None if trial else fork_template()
    # The template has to do without what only the supervisor needs, so that is imported now.
    with without_collections():
        from gateway.cli.running import run_gateway
    run_gateway(path, inherit, trial, template)
