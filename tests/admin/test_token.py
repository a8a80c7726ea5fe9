"""With a token, the admin address answers nothing without it but health checks and the page that asks for it."""

import socket

import aiohttp
import pytest

from gateway.admin.server import start_admin
from gateway.admin.token import carries_token

from .gateways import CONFIG, FakeGateway

TOKEN = "s3cret-token"
READS = ["/metrics", "/api/v1/status", "/api/v1/tunnels", "/nothing"]
ORDERS = ["/api/v1/reload", "/api/v1/drain", "/api/v1/stop", "/api/v1/upgrade"]
WRONG = [
    {},
    {"Authorization": TOKEN},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": f"Bearer {TOKEN.upper()}"},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": f"Bearer x, Bearer {TOKEN}"},
    {"X-Token": TOKEN},
]


@pytest.fixture(params=[f"admin: {{token: {TOKEN}}}"])
async def admin(request, tmp_path):
    gateway = FakeGateway(f"{request.param}\n{CONFIG}")
    sock = socket.create_server(("127.0.0.1", 0))
    server = await start_admin(gateway.state, sock, str(tmp_path), gateway.operations)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
        client.gateway = gateway
        yield client
    await server.close()
    gateway.table.close()


@pytest.mark.parametrize("fields", WRONG)
async def test_without_the_token(admin, fields):
    for method, paths in (("GET", READS), ("POST", ORDERS)):
        for path in paths:
            async with admin.request(method, path, headers=fields) as answer:
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
                assert TOKEN not in await answer.text()
    assert admin.gateway.operations.told == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_with_the_token(admin, scheme):
    fields = {"Authorization": f"{scheme} {TOKEN}"}
    for path in ("/metrics", "/api/v1/status", "/api/v1/tunnels", "/"):
        async with admin.get(path, headers=fields) as answer:
            assert answer.status == 200
            assert TOKEN not in await answer.text()
    async with admin.post("/api/v1/reload", headers=fields) as answer:
        assert answer.status == 200


async def test_health_checks_need_none(admin):
    for path in ("/healthz", "/readyz"):
        async with admin.get(path) as answer:
            assert answer.status == 200


async def test_the_page_asks_for_it(admin):
    async with admin.get("/") as answer:
        assert answer.status == 401
        assert 'id="token-form"' in await answer.text()
    for path in ("/page.js", "/page.css", "/icon.svg"):
        async with admin.get(path) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("admin", ["admin: {token: ''}"], indirect=True)
async def test_an_empty_token_is_none(admin):
    async with admin.get("/api/v1/status") as answer:
        assert answer.status == 200


def test_two_fields_are_not_one():
    assert carries_token([f"Bearer {TOKEN}"], TOKEN)
    assert not carries_token([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], TOKEN)
    assert not carries_token(["Bearer s3cret-tok\udce9n"], TOKEN)
