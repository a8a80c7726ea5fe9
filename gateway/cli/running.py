"""Runs a supervisor from a command."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Coroutine

import click

from gateway.config import ConfigError
from gateway.config.reading import Reading, read
from gateway.processes.forks import Template
from gateway.processes.inheritance import CannotInherit, Inheritance
from gateway.processes.supervisor import CannotStart, Supervisor
from gateway.routing.registry import RegistryFull


def run_gateway(path: str, reading: Reading, inherit: int | None, trial: bool, template: Template | None) -> None:
    """Run the gateway of a configuration; exit with status 1 or 2 if it fails.

    :param reading: of the file at ``path``
    :param inherit: in an upgrade, the descriptor of the state to take over
    :param trial: only check that this program can take over
    """
    try:
        found = reading.result()
    except (ConfigError, ValueError) as error:
        if template is not None:
            os.close(template.control)  # which ends it
        click.echo(str(error), err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    if inherit is None:
        for doubt in found.doubts:
            click.echo(doubt, err=True)
    config = found.config
    inheritance = None
    if inherit is not None:
        try:
            inheritance = Inheritance.read(inherit)
            inheritance.check(config)
            supervisor = Supervisor(config, path, read, inheritance=inheritance, template=template)
            if trial:
                _try(inheritance)
                return
        except (CannotInherit, RegistryFull, OSError, ValueError) as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        os.close(inherit)
    else:
        supervisor = Supervisor(config, path, read, template=template)
    run_until_stopped(supervisor.run())


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


def _try(inheritance: Inheritance) -> None:
    """Check that this program can take over. :raises ValueError: the table cannot be converted"""
    for module in ("gateway.admin.server", "gateway.processes.worker"):
        importlib.import_module(module)
    inheritance.carry_on(lambda: (len(inheritance.routes), len(inheritance.backends))).check()
