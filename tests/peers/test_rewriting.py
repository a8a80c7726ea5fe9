"""Paths that a prefix is taken off: what nginx's `proxy_pass` with a path sends, the gateway's `rewrite` sends, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.peers.proxies import start_nginx
from tests.peers.servers import Servers
from tests.support.gateway import route
from tests.support.raw import request

pytestmark = pytest.mark.asyncio(loop_scope="module")

TARGETS = [
    "/ws/",
    "/ws/x",
    "/ws/x?a=b&c",
    "/%77s/x",
    "/ws//x///y",
    "//ws//x",
    "/a/../ws/./x",
    "/ws/a/../b",
    "/ws/x%20y",
    "/ws/caf%C3%A9",
    "/ws/%3Fa",
    "/ws/a%2525",
    "/ws/~a-b.c_d",
    "/ws/a;b=c",
]


async def test_nginx_sends_the_same(
    start_gateway: StartGateway, backends: Backends, servers: Servers, open_connection: Open, tmp_path: Path
) -> None:
    web = await backends.web()
    gateway = await start_gateway(
        {
            "upstreams": {"web": {"backends": [web.address]}},
            "routes": [route("ws", "web", rewrite={"strip_prefix": "/ws", "add_prefix": "/app"})],
        }
    )
    nginx = await start_nginx(servers, tmp_path, f"location /ws/ {{ proxy_pass http://{web.address}/app/; }}")
    for target in TARGETS:
        seen = []
        for proxy in (nginx, gateway):
            client = await open_connection(proxy)
            await client.send(request(target))
            answer = await client.answer()
            assert answer.status == 200, (target, proxy)
            seen.append(json.loads(answer.text)["target"])
            await client.close()
        assert seen[0] == seen[1], target
