"""Loads the configuration for a command; errors end it."""

from __future__ import annotations

import sys

import click

from gateway.config import Admin, Config, ConfigError, load, load_admin, load_with_doubts


def load_admin_or_exit(path: str, status: int, token: str | None = None) -> Admin:
    """Load the admin section; print every error and exit with ``status`` if it cannot be read.

    :param token: in place of the one in the file
    """
    try:
        return load_admin(path, token=token)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(status)


def load_or_exit(path: str, warn: bool = False) -> Config:
    """Load a configuration; print every error and exit with status 2 if it is invalid.

    :param warn: also print warnings about unlikely settings
    """
    try:
        if not warn:
            return load(path)
        config, doubts = load_with_doubts(path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    for doubt in doubts:
        click.echo(str(doubt), err=True)
    return config
