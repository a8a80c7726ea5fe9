"""``gateway check``: prints every error in a configuration with its position, and warns of unlikely settings."""

from __future__ import annotations

import click

from gateway.cli.options import config_option, load_or_exit


@click.command(help="Check a configuration and print every error as FILE:LINE:COLUMN: key.path: what is wrong.")
@config_option
def check(path: str) -> None:
    """Exit with 0 if the file is valid, otherwise with 2."""
    config = load_or_exit(path, warn=True)
    click.echo(
        f"{path}: ok: {len(config.routes)} route{'s' * (len(config.routes) != 1)}, "
        f"{len(config.upstreams)} upstream{'s' * (len(config.upstreams) != 1)}, "
        f"listening on {', '.join(str(listener.address) for listener in config.listen)}"
    )
