"""``gateway run``: the gateway, in the foreground."""

from __future__ import annotations

import click

from gateway.cli.options import config_option, load_or_exit
from gateway.cli.running import run_until_stopped
from gateway.processes.supervisor import Supervisor


@click.command(help="Run the gateway in the foreground.")
@config_option
def run(path: str) -> None:
    """Run until a signal ends it: TERM drains first, INT and QUIT end at once, HUP reloads the configuration."""
    config = load_or_exit(path)
    run_until_stopped(Supervisor(config, path).run())
