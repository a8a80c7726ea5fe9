"""HAProxy in front of the gateway, and HAProxy behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Backends, StartGateway
from tests.peers.exercise import http_works, websocket_works
from tests.peers.servers import Servers, program
from tests.support.gateway import route
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def start_haproxy(servers: Servers, directory: Path, backends: dict[str, str]) -> str:
    """Run HAProxy that sends paths below a prefix to a backend, ``/`` last; its address."""
    address = f"127.0.0.1:{free_port()}"
    rules = "".join(f"    use_backend b{number} if {{ path_beg {prefix} }}\n" for number, prefix in enumerate(backends))
    servers_ = "".join(
        f"backend b{number}\n    server one {target}\n" for number, target in enumerate(backends.values())
    )
    file = directory / "haproxy.cfg"
    file.write_text(
        "global\n    maxconn 256\n"
        "defaults\n    mode http\n    option forwardfor\n    timeout connect 5s\n    timeout client 30s\n"
        "    timeout server 30s\n    timeout tunnel 1h\n"
        f"frontend f\n    bind {address}\n{rules}{servers_}"
    )
    await servers.start(program("haproxy"), "-db", "-f", file, accepts=address)
    return address


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
