"""``gateway schema``: prints the JSON Schema of the configuration."""

from __future__ import annotations

import json

import click

from gateway.config import json_schema


@click.command(help="Print the JSON Schema of the configuration, for editors.")
def schema() -> None:
    """Print the schema to stdout."""
    click.echo(json.dumps(json_schema(), indent=2))
