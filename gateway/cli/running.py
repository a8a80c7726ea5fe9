"""Runs a supervisor from a command."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine

import click

from gateway.processes.supervisor import CannotStart


def run_until_stopped(work: Coroutine[None, None, None]) -> None:
    """Run a gateway; exit with status 1 if it fails."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s gateway[%(process)d] %(message)s",
    )
    try:
        asyncio.run(work)
    except CannotStart as error:
        click.echo(f"gateway: {error}", err=True)
        sys.exit(1)
