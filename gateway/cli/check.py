"""``gateway check``: prints every error in a configuration with its position, and warns of unlikely settings."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from gateway.cli.loading import load_or_exit
from gateway.cli.options import config_option
from gateway.cli.output import visible

if TYPE_CHECKING:
    from gateway.config import Config


@click.command(help="Check a configuration and print every error as FILE:LINE:COLUMN: key.path: what is wrong.")
@config_option
@click.option(
    "--connect",
    is_flag=True,
    help="Also connect to every backend, listed or discovered, with TLS where it is configured.",
)
def check(path: str, connect: bool) -> None:
    """Exit with 0 if the file is valid, otherwise with 2; with 1 if a backend cannot be reached or found."""
    config = load_or_exit(path, warn=True)
    click.echo(
        f"{path}: ok: {len(config.routes)} route{'s' * (len(config.routes) != 1)}, "
        f"{len(config.upstreams)} upstream{'s' * (len(config.upstreams) != 1)}, "
        f"listening on {', '.join(str(listener.address) for listener in config.listen)}"
    )
    if connect and not asyncio.run(_connect(config)):
        sys.exit(1)


async def _connect(config: Config) -> bool:
    """Try every backend. :returns: whether each can be reached, at one of its addresses at least"""
    from gateway.cli.connecting import try_backends

    failed: list[str] = []
    not_found: list[str] = []
    async for findings in try_backends(config):
        for each in findings:
            where = each.backend if each.of_source else f"{each.backend}: {each.address}"
            click.echo(visible(f"{each.upstream}: {where}: {'ok' if each.ok else 'failed'}: {each.found}"))
        if not any(each.ok for each in findings):
            first = findings[0]
            (not_found if first.of_source else failed).append(f"{first.upstream}: {first.backend}")
    if failed:
        click.echo(f"{len(failed)} backend{'s' * (len(failed) != 1)} cannot be reached: {', '.join(failed)}", err=True)
    if not_found:
        sources = f"{len(not_found)} source{'s' * (len(not_found) != 1)}"
        click.echo(f"{sources} of backends cannot be used: {', '.join(not_found)}", err=True)
    return not failed and not not_found
