"""HAProxy in front of the gateway, and HAProxy behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Backends, StartGateway
from tests.peers.exercise import http_works, websocket_works
from tests.peers.proxies import start_haproxy
from tests.peers.servers import Servers
from tests.support.gateway import route

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_haproxy_in_front(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path
) -> None:
    echo, web = await backends.echo(), await backends.web()
    gateway = await start_gateway(
        {
            "trusted_proxies": ["127.0.0.1"],
            "upstreams": {"echo": {"backends": [echo.address]}, "web": {"backends": [web.address]}},
            "routes": [route("web", "web"), route("all", "echo", "/")],
        }
    )
    haproxy = await start_haproxy(servers, tmp_path, {"/": gateway.address})
    await websocket_works(f"ws://{haproxy}/chat")
    record = await gateway.logged(event="tunnel_end", path="/chat")
    assert (record["client"], record["cause"]) == ("127.0.0.1", "close_frame")
    await http_works(f"http://{haproxy}/web/folder", web)


async def test_haproxy_behind(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path
) -> None:
    echo, web = await backends.echo(), await backends.web()
    haproxy = await start_haproxy(servers, tmp_path, {"/web/": web.address, "/": echo.address})
    gateway = await start_gateway(
        {"upstreams": {"haproxy": {"backends": [haproxy]}}, "routes": [route("all", "haproxy", "/")]}
    )
    await websocket_works(gateway.ws("/chat"))
    await http_works(gateway.http("/web/folder"), web)
