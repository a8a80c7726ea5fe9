"""``gateway run``: runs the gateway in the foreground.

Each process of a running gateway has only what it needs, so the order of imports matters here: first what workers need,
then, when the template has been forked, what only the supervisor needs. Another process reads the configuration
meanwhile.
"""

from __future__ import annotations

import click

from gateway.cli.options import config_option
from gateway.config.reading import Reading
from gateway.config.unvalidated import import_sections
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
    reading = Reading(path, at_start=True)
    try:
        template = None if trial else fork_template()
        with without_collections():
            import_sections()
            from gateway.cli.running import run_gateway
    except BaseException:
        reading.close()
        raise
    run_gateway(path, reading, inherit, trial, template)
