"""``gateway check``: every error of a configuration, each with its place, and warnings of what it can hardly mean."""

from __future__ import annotations

import click

from gateway.cli.options import config_option, load_or_exit


@click.command(help="Check a configuration and print every error as FILE:LINE:COLUMN: key.path: what is wrong.")
@config_option
def check(path: str) -> None:
    """Exit with 0 if the file is right, with 2 if it is not."""
    config = load_or_exit(path, warn=True)
    click.echo(
        f"{path}: ok: {len(config.routes)} route{'s' * (len(config.routes) != 1)}, "
        f"{len(config.upstreams)} upstream{'s' * (len(config.upstreams) != 1)}, "
        f"listening on {', '.join(str(listener.address) for listener in config.listen)}"
    )
