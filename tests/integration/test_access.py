"""Who may come in: allowed and refused, on first and kept connections, handshakes and plain HTTP."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Web
from tests.support.gateway import Gateway, route
from tests.support.raw import handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

APP = "https://app.example.com"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, web: Web) -> Gateway:
    return await start_shared_gateway(
        {
            "trusted_proxies": ["127.0.0.1"],
            "upstreams": {"web": {"backends": [web.address]}},
            "routes": [
                route("origins", "web", origins=[APP, "https://*.example.org"]),
                route("allow", "web", allow=["10.0.0.0/8", "2001:db8::/32"], deny=["10.9.0.0/16"]),
                route("deny", "web", deny=["192.0.2.0/24"]),
                route("rest", "web", "/"),
            ],
        }
    )


def from_address(address: str) -> str:
    return f"X-Forwarded-For: {address}"


CASES = [
    ("/origins/x", f"Origin: {APP}", True),
    ("/origins/x", "Origin: https://a.example.org", True),
    ("/origins/x", "Origin: https://evil.test", False),
    ("/origins/x", "Origin: null", False),
    ("/origins/x", "X: no origin", False),
    ("/allow/x", from_address("10.1.2.3"), True),
    ("/allow/x", from_address("::ffff:10.1.2.3"), True),
    ("/allow/x", from_address('"[2001:db8::5]:4711"'), True),
    ("/allow/x", from_address("10.9.2.3"), False),
    ("/allow/x", from_address("192.0.2.1"), False),
    ("/allow/x", from_address("10.1.2.3, 192.0.2.1"), False),  # the last that is no proxy of ours is the client
    ("/deny/x", from_address("192.0.2.7:80"), False),
    ("/deny/x", from_address("::ffff:192.0.2.7"), False),
    ("/deny/x", from_address("192.0.3.7"), True),
]


@pytest.mark.parametrize("ask", [request, handshake], ids=["plain", "handshake"])
@pytest.mark.parametrize("kept", [False, True], ids=["first", "kept"])
@pytest.mark.parametrize(("path", "field", "allowed"), CASES)
async def test_who_may_come_in(
    gateway: Gateway, web: Web, open_connection: Open, ask, kept: bool, path: str, field: str, allowed: bool
) -> None:
    client = await open_connection(gateway)
    if kept:
        await client.send(request("/rest/x"))
        assert (await client.answer()).status == 200
    requests = len(web.connections)
    before = await gateway.scrape()
    await client.send(ask(path.replace("/x", "/ws") if ask is handshake else path, field))
    if allowed:
        expected = 101 if ask is handshake else 200
        assert (await client.head()).status == expected
        return
    answer = await client.answer()
    assert answer.status == 403
    assert (answer.head.value("content-type") or "").startswith("text/plain")
    assert "allowed" in answer.text
    assert len(web.connections) == requests
    name = path.split("/")[1]
    if ask is handshake:
        await gateway.counts(before, "gateway_handshakes_total", route=name, result="forbidden")
    else:
        await gateway.counts(before, "gateway_http_requests_total", route=name, code="403")


@pytest.mark.parametrize(
    "target",
    [
        *("/origins/x", "/origins", "/%6Frigins/x", "//origins/x", "/./origins/x", "/rest/../origins/x", "/origins//x"),
        *("/origins/%2e/x", "/rest/%2E%2e/origins", "http://gateway.test/origins/x", "/origins;a=b/../origins/x"),
        *("/origins/x?y=/rest", "/origins?x", "///origins///x", "/rest/..//origins/x", "/rest%2F..%2Forigins/x"),
    ],
)
async def test_no_spelling_of_a_path_gets_past_a_rule(
    gateway: Gateway, web: Web, open_connection: Open, target: str
) -> None:
    """There is a route for everything behind it."""
    requests = len(web.connections)
    client = await open_connection(gateway)
    await client.send(request(target, "Origin: https://evil.test"))
    assert (await client.answer()).status in (400, 403)
    assert len(web.connections) == requests


async def test_a_reload_changes_the_rules(start_gateway: StartGateway, web: Web, open_connection: Open) -> None:
    config = {
        "upstreams": {"web": {"backends": [web.address]}},
        "routes": [route("all", "web", "/", deny=["127.0.0.1"])],
    }
    gateway = await start_gateway(config)
    client = await open_connection(gateway)
    await client.send(request("/"))
    assert (await client.answer()).status == 403

    gateway.write({"upstreams": config["upstreams"], "routes": [route("all", "web", "/")]})
    await gateway.reload()
    await client.send(request("/"))
    assert (await client.answer()).status == 200
