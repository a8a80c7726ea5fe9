"""nginx and HAProxy in front of the gateway, as its TLS clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.peers.exercise import http_works, websocket_works
from tests.peers.proxies import UPGRADE, start_haproxy, start_nginx
from tests.peers.servers import Servers
from tests.peers.tls.site import NAME, Site

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


async def everything_works(site: Site, proxy: str, version: str) -> None:
    """Tunnels and requests, and many short ones at once, each over a connection of its own or one that is kept."""
    before = await site.handshakes(version)
    await websocket_works(f"ws://{proxy}/ws/{version}")
    record = await site.gateway.logged(event="tunnel_end", path=f"/ws/{version}")
    assert (record["client"], record["cause"]) == ("127.0.0.1", "close_frame")  # as X-Forwarded-For says: no port
    await http_works(f"http://{proxy}/{version}/folder", site.web)

    async def get(session: aiohttp.ClientSession, number: int) -> None:
        async with session.get(f"http://{proxy}/{version}/{number}") as answer:
            found = await answer.json()
            assert found["target"] == f"/{version}/{number}"

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(get(session, number) for number in range(50)))
    await site.handshakes(version, before + 3)


@VERSIONS
async def test_nginx_in_front(servers: Servers, site: Site, tmp_path: Path, version: str) -> None:
    """It verifies, resumes sessions, and closes without close_notify."""
    nginx = await start_nginx(
        servers,
        tmp_path,
        f"""
        proxy_ssl_protocols TLSv{version}; proxy_ssl_name {NAME}; proxy_ssl_server_name on;
        proxy_ssl_verify on; proxy_ssl_trusted_certificate {site.ca};
        location / {{ proxy_pass https://{site.address}; {UPGRADE} }}
        """,
    )
    await everything_works(site, nginx, version)


@VERSIONS
async def test_haproxy_in_front(servers: Servers, site: Site, tmp_path: Path, version: str) -> None:
    """It keeps connections for further requests."""
    tls = f"ssl verify required ca-file {site.ca} verifyhost {NAME} sni str({NAME}) alpn http/1.1"
    only = f"ssl-min-ver TLSv{version} ssl-max-ver TLSv{version}"
    haproxy = await start_haproxy(servers, tmp_path, {"/": f"{site.address} {tls} {only}"})
    await everything_works(site, haproxy, version)
