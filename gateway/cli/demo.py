"""``gateway demo``: the gateway with a built-in echo backend, and what to open and type next."""

from __future__ import annotations

import os
import sys
from importlib.resources import files

import click

from gateway.cli.options import DEFAULT_FILE, config_option, load_or_exit
from gateway.cli.running import run_until_stopped
from gateway.config import Config
from gateway.config.schema import Address
from gateway.demo.echo import start_echo
from gateway.processes.listening import CannotListen, listen_alone
from gateway.processes.supervisor import CannotStart, Supervisor

LOOPBACK = ("localhost", "::1")


@click.command(help="Run the gateway with a built-in echo backend where the configuration's backends would be.")
@config_option
def demo(path: str) -> None:
    """Run until a signal ends it, as ``gateway run``. Without a file here, the one that is installed is used."""
    if path == DEFAULT_FILE and not os.path.exists(path):
        path = str(files("gateway.demo") / DEFAULT_FILE)
    config = load_or_exit(path)
    backends = {backend.address for upstream in config.upstreams.values() for backend in upstream.backends}
    for address in backends:
        if not _is_local(address):
            click.echo(f"{path}: the demo's backend cannot be at {address}: that is not this machine", err=True)
            sys.exit(2)
    run_until_stopped(_run(config, path, backends))


async def _run(config: Config, path: str, backends: set[Address]) -> None:
    runners = []
    try:
        try:
            for address in backends:
                runners.append(await start_echo(listen_alone(address)))
        except CannotListen as error:
            raise CannotStart(f"the demo's backend {error}") from None
        await Supervisor(config, path, demo=True).run(lambda: click.echo(_what_next(config), err=True))
    finally:
        for runner in runners:
            await runner.cleanup()


def _is_local(address: Address) -> bool:
    return address.path is not None or address.host in LOOPBACK or str(address.host).startswith("127.")


def _what_next(config: Config) -> str:
    """What a newcomer sees once it runs."""
    url = _url(next((each.address for each in config.listen if each.address.path is None), None))
    admin = _url(config.admin.address)
    command = os.path.relpath(sys.argv[0]) if os.path.basename(sys.argv[0]) == "gateway" else "gateway"
    return f"""
  The gateway runs, with an echo backend behind it.

    open  http://{admin}/           every live tunnel; opens one for you, too
    open  http://{url}/           a page from the backend, through the gateway
    or connect any WebSocket client to ws://{url}/
    type  {command} tunnels
          curl -N http://{url}/sse
          curl http://{admin}/metrics

  Then edit gateway.yaml, point it at your own backends: {command} check && {command} run
"""


def _url(address: Address | None) -> str:
    if address is None or address.path is not None:
        return "localhost"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(str(address.host), str(address.host))
    return f"{host}:{address.port}"
