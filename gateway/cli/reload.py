"""``gateway reload``: makes the running gateway reload its configuration file."""

from __future__ import annotations

import sys

import click

from gateway.cli.answers import NotDone, address_of, admin_option, order
from gateway.cli.options import config_option

PATIENCE_SECONDS = 60.0
"""Longer than the gateway itself waits for its workers."""


@click.command(help="Make the running gateway reload its configuration and apply it.")
@config_option
@admin_option
def reload(path: str, admin: str | None) -> None:
    """Exit with 0 once it is in force; with 1 if it is refused, after printing the errors."""
    try:
        order("/api/v1/reload", address_of(path, admin, status=1), patience_seconds=PATIENCE_SECONDS)
    except NotDone as error:
        click.echo(error.message, err=True)
        click.echo("not reloaded: the current configuration stays in force", err=True)
        sys.exit(1)
    click.echo("reloaded")
