"""``gateway upgrade``: replaces the running gateway with the installed program, without losing a tunnel."""

from __future__ import annotations

import sys

import click

from gateway.cli.answers import NotDone, address_of, admin_option, order
from gateway.cli.options import config_option

PATIENCE_SECONDS = 300.0
"""Longer than the gateway itself waits for the new program and for its workers."""


@click.command(help="Replace the running gateway with the program that is installed now; tunnels stay open.")
@config_option
@admin_option
def upgrade(path: str, admin: str | None) -> None:
    """Exit with 0 once the new program serves; with 1 if it does not, after printing the reason."""
    try:
        order("/api/v1/upgrade", address_of(path, admin, status=1), patience_seconds=PATIENCE_SECONDS)
    except NotDone as error:
        click.echo(error.message, err=True)
        click.echo("not upgraded", err=True)
        sys.exit(1)
    click.echo("upgraded")
