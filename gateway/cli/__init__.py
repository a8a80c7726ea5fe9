"""The command line: one module per command, imported only when the command is called.

Exit status: 0 done; 1 failed while running; 2 usage or configuration error.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import click

from gateway.imports import without_collections
from gateway.version import VERSION

COMMANDS = {
    "run": "Run the gateway in the foreground.",
    "check": "Check a configuration and print every error in it.",
    "demo": "Run the gateway with a built-in echo backend.",
    "schema": "Print the JSON Schema of the configuration, for editors.",
    "status": "Show the state of the running gateway.",
    "tunnels": "List the live tunnels of the running gateway.",
    "probe": "Find out after how much silence a path cuts tunnels.",
    "reload": "Make the running gateway reload its configuration.",
    "upgrade": "Replace the running gateway with the program that is installed now.",
    "drain": "Close the tunnels of the running gateway, or of one backend, over time.",
    "rebalance": "Move tunnels to the backends that ought to have them.",
    "stop": "Stop the running gateway at once.",
}


class _Commands(click.Group):
    """Finds each command in the module with its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(_imported(f"gateway.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _imported(module: str) -> ModuleType:
    """Import a module and its dependencies as cheaply as possible."""
    if module not in sys.modules:
        with without_collections():
            importlib.import_module(module)
    return sys.modules[module]


@click.command(cls=_Commands)
@click.version_option(VERSION, prog_name="gateway")
def main() -> None:
    """A reverse proxy for WebSocket servers that knows, keeps alive and explains every link."""
