"""``gateway run``: runs the gateway in the foreground."""

from __future__ import annotations

import importlib
import os
import sys

import click

from gateway.cli.options import config_option, load_or_exit
from gateway.cli.running import run_until_stopped
from gateway.processes.inheritance import CannotInherit, Inheritance
from gateway.processes.supervisor import Supervisor
from gateway.routing.registry import RegistryFull


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
    config = load_or_exit(path, warn=inherit is None)
    inheritance = None
    if inherit is not None:
        try:
            inheritance = Inheritance.read(inherit)
            inheritance.check(config)
            supervisor = Supervisor(config, path, inheritance=inheritance)
            if trial:
                _try(inheritance)
                return
        except (CannotInherit, RegistryFull, OSError, ValueError) as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        os.close(inherit)
    else:
        supervisor = Supervisor(config, path)
    run_until_stopped(supervisor.run())


def _try(inheritance: Inheritance) -> None:
    """Check that this program can take over. :raises ValueError: the table cannot be converted"""
    for module in ("gateway.admin.server", "gateway.processes.boot", "gateway.processes.worker"):
        importlib.import_module(module)
    inheritance.carry_on(lambda: (len(inheritance.routes), len(inheritance.backends))).check()
