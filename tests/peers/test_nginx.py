"""nginx in front of the gateway, and nginx behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.asyncio.client import connect as websocket

from tests.conftest import Backends, Open, StartGateway
from tests.peers.exercise import http_works, websocket_works
from tests.peers.proxies import UPGRADE, start_nginx
from tests.peers.servers import Servers
from tests.support.gateway import route, to_one
from tests.support.raw import handshake, request

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_nginx_in_front(
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
    nginx = await start_nginx(servers, tmp_path, f"location / {{ proxy_pass http://{gateway.address}; {UPGRADE} }}")
    await websocket_works(f"ws://{nginx}/chat")
    record = await gateway.logged(event="tunnel_end", path="/chat")
    assert (record["client"], record["cause"]) == ("127.0.0.1", "close_frame")  # as X-Forwarded-For says: no port
    await http_works(f"http://{nginx}/web/folder", web)


async def test_nginx_in_front_that_strips_the_upgrade(
    start_gateway: StartGateway, backends: Backends, servers: Servers, open_connection: Open, tmp_path: Path
) -> None:
    """The mistake that every nginx user makes once; the gateway says what is wrong."""
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    nginx = await start_nginx(servers, tmp_path, f"location / {{ proxy_pass http://{gateway.address}; }}")
    before = await gateway.scrape()
    client = await open_connection(nginx)
    await client.send(handshake("/chat"))
    answer = await client.answer()
    assert answer.status == 426
    assert "Upgrade: websocket and Connection: Upgrade" in answer.text
    assert "X-Forwarded-For: 127.0.0.1" in answer.text
    await gateway.counts(before, "gateway_handshakes_total", result="stripped_upgrade")


async def test_nginx_behind(
    start_gateway: StartGateway, backends: Backends, servers: Servers, open_connection: Open, tmp_path: Path
) -> None:
    echo, web = await backends.echo(), await backends.web()
    (tmp_path / "hello.txt").write_text("a file that nginx serves\n")
    nginx = await start_nginx(
        servers,
        tmp_path,
        f"""
        location / {{ proxy_pass http://{echo.address}; {UPGRADE} }}
        location /web/ {{ proxy_pass http://{web.address}; }}
        location /files/ {{ alias {tmp_path}/; }}
        location /private/ {{ return 401 "who are you"; }}
        """,
    )
    gateway = await start_gateway(to_one(nginx))
    await websocket_works(gateway.ws("/chat"))
    await http_works(gateway.http("/web/folder"), web)

    client = await open_connection(gateway)
    await client.send(request("/files/hello.txt", "Range: bytes=2-5") + request("/files/hello.txt", method="HEAD"))
    part = await client.answer()
    assert (part.status, part.body) == (206, b"file")
    whole = await client.answer(head_only=True)
    assert (whole.status, whole.head.value("Content-Length")) == (200, "25")

    refused = await open_connection(gateway)
    await refused.send(handshake("/private/"))
    answer = await refused.answer()
    assert (answer.status, answer.body) == (401, b"who are you")
    assert (await gateway.logged(event="handshake", status=401))["result"] == "refused_by_backend"


async def test_a_chain(start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path) -> None:
    """nginx, gateway, gateway: a tunnel through two of them is still one tunnel."""
    echo = await backends.echo()
    inner = await start_gateway(to_one(echo.address))
    outer = await start_gateway(to_one(inner.address))
    nginx = await start_nginx(servers, tmp_path, f"location / {{ proxy_pass http://{outer.address}; {UPGRADE} }}")
    async with websocket(f"ws://{nginx}/chain", ping_interval=None) as client:
        await client.send("through three")
        assert await client.recv() == "through three"
        for gateway in (inner, outer):
            assert (await gateway.scrape()).value("gateway_tunnels") == 1
    for gateway in (inner, outer):
        await gateway.tunnels(0)
