"""``gateway demo``: runs the gateway with a built-in echo backend, and says what to try next."""

from __future__ import annotations

import os
from importlib.resources import files

import click

from gateway.cli.options import DEFAULT_FILE, config_option
from gateway.imports import without_collections
from gateway.processes.template import fork_template


@click.command(help="Run the gateway with a built-in echo backend in place of the configuration's backends.")
@config_option
def demo(path: str) -> None:
    """Run until a signal ends it, like ``gateway run``. Without a configuration file, use the installed one."""
    template = fork_template()
    with without_collections():  # the template does without what only the supervisor needs
        from gateway.cli.demonstrating import run_demo
    if path == DEFAULT_FILE and not os.path.exists(path):
        path = str(files("gateway.demo") / DEFAULT_FILE)
    run_demo(path, template)
