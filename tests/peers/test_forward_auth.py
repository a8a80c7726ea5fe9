"""Forward auth beside nginx's ``auth_request``: the same auth server, the same backend, the same requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.peers.proxies import start_nginx
from tests.peers.servers import Servers
from tests.support.auth_server import GOOD, AuthServer
from tests.support.gateway import to_one
from tests.support.raw import request

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = {
    "let in": request("/a/b?c=%41", GOOD, "Cookie: a=1", "Accept: text/html"),
    "posted": request("/a", GOOD, "Content-Length: 3", method="POST") + b"abc",
    "spelled": request("/a//b/./c%2Fd", GOOD),
    "refused": request("/a/b", "Authorization: Bearer bad"),
    "without credentials": request("/"),
    "as somebody else": request("/", GOOD, "X-User: root"),
}

HEARD = (
    *("authorization", "cookie", "accept", "content-length"),
    *("x-forwarded-uri", "x-forwarded-method", "x-forwarded-host"),
)


async def test_as_nginx_does(
    start_gateway: StartGateway, backends: Backends, servers: Servers, open_connection: Open, tmp_path: Path
) -> None:
    """Statuses, the challenge, what the backend gets, and what the auth server hears of the request."""
    auth, web = await AuthServer.start(), await backends.web()
    try:
        nginx = await start_nginx(
            servers,
            tmp_path,
            f"""
            location / {{
                auth_request /check; auth_request_set $user $upstream_http_x_user;
                proxy_set_header Host $http_host; proxy_set_header X-User $user;
                proxy_pass http://{web.address};
            }}
            location = /check {{
                internal; proxy_pass http://{auth.address}/check; proxy_pass_request_body off;
                proxy_set_header Content-Length ""; proxy_set_header X-Forwarded-Uri $request_uri;
                proxy_set_header X-Forwarded-Method $request_method; proxy_set_header X-Forwarded-Host $http_host;
            }}
            """,
        )
        config = to_one(web.address)
        config["routes"][0]["auth"] = {"forward": {"url": f"http://{auth.address}/check", "copy": ["X-User"]}}
        gateway = await start_gateway(config)
        for name, data in REQUESTS.items():
            seen = []
            for proxy in (nginx, gateway):
                client = await open_connection(proxy)
                await client.send(data)
                answer = await client.answer()
                backend = json.loads(answer.text) if answer.status == 200 else {"headers": []}
                heard = {field: auth.last.values(field) for field in HEARD}
                seen.append(
                    (
                        answer.status,
                        answer.head.values("www-authenticate"),
                        backend.get("method"),
                        backend.get("target"),
                        backend.get("body"),
                        [value for key, value in backend["headers"] if key == "X-User"],
                        auth.last.first_line.split(" ")[:2],
                        heard,
                    )
                )
            assert seen[0] == seen[1], name
    finally:
        await auth.close()
