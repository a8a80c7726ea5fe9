"""The admin address, on real sockets."""

import json
import socket
from urllib.parse import urljoin

import aiohttp
import pytest

from gateway.admin.server import start_admin

from .gateways import CONFIG, FakeGateway, samples


class Admin:
    """A running admin address and a client of it."""

    def __init__(self, gateway: FakeGateway, url: str, client: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self._url = url
        self._client = client

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
        async with self._client.request(method, urljoin(self._url, path), headers=headers) as response:
            return response, await response.read()


async def served(gateway: FakeGateway, directory):
    """Serve a gateway's admin address; yields once."""
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = await start_admin(gateway.state, sock, str(directory), gateway.operations)
    async with aiohttp.ClientSession() as client:
        yield Admin(gateway, url, client)
    await server.close()
    gateway.table.close()


@pytest.fixture
async def admin(tmp_path):
    async for running in served(FakeGateway(), tmp_path):
        yield running


@pytest.fixture
async def demo(tmp_path):
    async for running in served(FakeGateway(demo=True), tmp_path):
        yield running


async def test_metrics(admin):
    admin.gateway.open()
    response, body = await admin.get("/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert samples(body)['gateway_tunnels{backend="127.0.0.1:9001",route="chat"}'] == 1


async def test_metrics_as_prometheus_asks_for_them(admin):
    response, body = await admin.get("/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith(b"# EOF\n")


async def test_health(admin):
    response, body = await admin.get("/healthz")
    assert (response.status, body) == (200, b"ok\n")


async def test_readiness_follows_the_workers(admin):
    response, _ = await admin.get("/readyz")
    assert response.status == 200
    admin.gateway.stop(0)
    admin.gateway.stop(1)
    response, body = await admin.get("/readyz")
    assert (response.status, body) == (503, b"not ready: no worker accepts connections\n")
    admin.gateway.start(1)
    response, _ = await admin.get("/readyz")
    assert response.status == 200
    admin.gateway.state.stopping = True
    response, body = await admin.get("/readyz")
    assert (response.status, body) == (503, b"not ready: the gateway is shutting down\n")
    response, _ = await admin.get("/healthz")
    assert response.status == 200


async def test_status(admin):
    response, body = await admin.get("/api/v1/status")
    assert response.status == 200
    assert response.content_type == "application/json"
    assert [worker["pid"] for worker in json.loads(body)["workers"]] == [4000, 4001]


async def test_tunnels(admin):
    admin.gateway.open(texts={"path": b"</script>\xff\n"}, client_idle=90, backend_idle=90)
    admin.gateway.open("feed", ("feed", "unix:/run/feed.sock"))
    _, body = await admin.get("/api/v1/tunnels?idle_over=60s&route=chat")
    answer = json.loads(body)
    assert answer["total"] == 1
    assert answer["tunnels"][0]["path"] == "</script>\N{REPLACEMENT CHARACTER}\n"


@pytest.mark.parametrize("query", ["rout=chat", "route=x", "idle_over=soon", "limit=0", "limit=1&limit=2"])
async def test_a_bad_query_is_told_so_in_json(admin, query):
    response, body = await admin.get(f"/api/v1/tunnels?{query}")
    assert response.status == 400
    assert response.content_type == "application/json"
    assert json.loads(body)["error"]


async def test_what_is_not_there(admin):
    response, body = await admin.get("/api/v1/nothing")
    assert (response.status, response.content_type) == (404, "application/json")
    assert json.loads(body) == {"error": "404: Not Found"}
    response, _ = await admin.get("/page.py")
    assert response.status == 404
    response, _ = await admin.get("/../gateway.yaml")
    assert response.status == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/tunnels", "/"])
async def test_everything_is_read_only_and_nothing_is_kept_or_shared(admin, path):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        response, _ = await admin.get(path, method)
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"
    response, body = await admin.get(path, "HEAD")
    assert (response.status, body) == (200, b"")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not [name for name in response.headers if name.lower().startswith("access-control-")]


async def test_the_page_and_all_that_it_loads(admin):
    response, body = await admin.get("/")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self'; connect-src 'self';")
    assert b"upgrade-gateway" in body
    for name, kind in {
        "page.css": "text/css",
        "page.js": "text/javascript",
        "console.js": "text/javascript",
        "dom.js": "text/javascript",
        "rules.js": "text/javascript",
        "icon.svg": "image/svg+xml",
    }.items():
        response, content = await admin.get(f"/{name}")
        assert (response.status, response.content_type) == (200, kind)
        assert content
        # Works offline: nothing is loaded from another host, and no markup is made of texts.
        other_hosts = content.replace(b"http://www.w3.org/2000/svg", b"").replace(b"ws://127.0.0.1:8080/", b"")
        assert b"://" not in other_hosts
        assert b"innerHTML" not in content


async def test_the_demos_page_may_open_tunnels_and_nothing_else(demo):
    response, _ = await demo.get("/")
    policy = response.headers["Content-Security-Policy"]
    assert "connect-src 'self' ws://127.0.0.1:8080;" in policy


async def test_the_demo_on_an_ipv6_address(tmp_path):
    gateway = FakeGateway(CONFIG.replace("0.0.0.0:8080", "[::1]:8080"), demo=True)
    async for admin in served(gateway, tmp_path):
        response, _ = await admin.get("/")
        assert "connect-src 'self' ws:;" in response.headers["Content-Security-Policy"]


async def test_a_unix_socket(tmp_path):
    gateway = FakeGateway()
    path = str(tmp_path / "admin.sock")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await start_admin(gateway.state, sock, str(tmp_path), gateway.operations)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as client,
        client.get("http://gateway/healthz") as response,
    ):
        assert response.status == 200
    await server.close()
    gateway.table.close()


async def test_after_close_nobody_answers_and_the_table_can_be_closed(tmp_path):
    gateway = FakeGateway()
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()
    server = await start_admin(gateway.state, sock, str(tmp_path), gateway.operations)
    with socket.create_connection(address):  # one that asks for nothing holds up nothing
        await server.close()
    gateway.table.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
