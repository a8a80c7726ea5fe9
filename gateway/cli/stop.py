"""``gateway stop``: have the running gateway exit at once."""

from __future__ import annotations

import click

from gateway.cli.answers import PATIENCE_SECONDS, address_of, admin_option, tell, wait_until_gone
from gateway.cli.options import config_option


@click.command(help="Have the running gateway exit at once, tunnels or not. `gateway drain` closes them first.")
@config_option
@admin_option
def stop(path: str, admin: str | None) -> None:
    """Exit with 0 once it is gone, with 1 if there is none or it does not go."""
    address = address_of(path, admin)
    tell("/api/v1/stop", address, patience_seconds=PATIENCE_SECONDS)
    wait_until_gone(address)
    click.echo("stopped")
