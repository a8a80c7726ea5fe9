"""``gateway stop``: stops the running gateway at once."""

from __future__ import annotations

import click

from gateway.cli.answers import PATIENCE_SECONDS, address_of, admin_option, order, wait_until_gone
from gateway.cli.options import config_option


@click.command(help="Stop the running gateway at once, even with open tunnels. `gateway drain` closes them first.")
@config_option
@admin_option
def stop(path: str, admin: str | None) -> None:
    """Exit with 0 once the gateway has exited, with 1 if none is running or it does not exit."""
    address = address_of(path, admin)
    order("/api/v1/stop", address, patience_seconds=PATIENCE_SECONDS)
    wait_until_gone(address)
    click.echo("stopped")
