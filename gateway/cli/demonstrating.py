"""Runs a supervisor and the echo backend for ``gateway demo``."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from gateway.cli.loading import load_or_exit
from gateway.cli.running import run_until_stopped
from gateway.config import Config, load
from gateway.config.schema import Address
from gateway.imports import without_collections
from gateway.processes.forks import Template
from gateway.processes.listening import CannotListen, listen_alone
from gateway.processes.supervisor import CannotStart, Supervisor

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

LOOPBACK = ("localhost", "::1")


def run_demo(path: str, template: Template | None) -> None:
    """Run a configuration with the echo backend; exit with status 1 or 2 if that fails."""
    config = load_or_exit(path)
    backends = {backend.address for upstream in config.upstreams.values() for backend in upstream.backends}
    for address in backends:
        if not _is_local(address):
            click.echo(
                f"{path}: the demo's backend cannot listen on {address}, which is not an address of this machine",
                err=True,
            )
            sys.exit(2)
    run_until_stopped(_run(config, path, backends, template))


async def _run(config: Config, path: str, backends: set[Address], template: Template | None) -> None:
    sockets: list[socket.socket] = []
    try:
        for address in backends:
            sockets.append(listen_alone(address))
    except CannotListen as error:
        for sock in sockets:
            sock.close()
        raise CannotStart(f"the demo's backend {error}") from None
    echoing = asyncio.create_task(_start_echo(sockets))
    try:
        await Supervisor(config, path, load, demo=True, template=template).run(
            lambda: click.echo(_what_next(config), err=True)
        )
    finally:
        for runner in await echoing:
            await runner.cleanup()


async def _start_echo(sockets: list[socket.socket]) -> list[AppRunner]:
    """Serve the echo backend. A thread imports aiohttp while the workers start; connections wait in the sockets."""
    start_echo = await asyncio.to_thread(_imported)
    return [await start_echo(sock) for sock in sockets]


def _imported() -> Callable[[socket.socket], Awaitable[AppRunner]]:
    with without_collections():
        from gateway.demo.echo import start_echo
    return start_echo


def _is_local(address: Address) -> bool:
    return address.path is not None or address.host in LOOPBACK or str(address.host).startswith("127.")


def _what_next(config: Config) -> str:
    """Return what the demo prints once it runs."""
    url = _url(next((each.address for each in config.listen if each.address.path is None), None))
    admin = _url(config.admin.address)
    command = os.path.relpath(sys.argv[0]) if os.path.basename(sys.argv[0]) == "gateway" else "gateway"
    return f"""
  The gateway is running, with an echo backend behind it.

    open  http://{admin}/           shows every live tunnel, and can open one
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
