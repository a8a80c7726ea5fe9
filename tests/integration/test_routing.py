"""Which backend gets a request."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Echo, Web
from tests.support.gateway import Gateway, route
from tests.support.ports import free_port
from tests.support.raw import Connection, handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webs(shared_backends: Backends) -> list[Web]:
    return [await shared_backends.web() for _ in range(3)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echoes(shared_backends: Backends) -> list[Echo]:
    return [await shared_backends.echo() for _ in range(2)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, webs: list[Web], echoes: list[Echo]) -> Gateway:
    port = webs[0].address.rpartition(":")[2]
    dead = f"127.0.0.1:{free_port()}"

    def on(name: str, upstream: str = "web", **match: object) -> dict[str, object]:
        return {"name": name, "match": match, "upstream": upstream}

    return await start_shared_gateway(
        {
            "workers": 2,
            "upstreams": {
                "web": {"backends": [webs[0].address]},
                "echo": {"backends": [echoes[0].address]},
                "named": {"backends": [f"localhost:{port}"]},
                "weighted": {
                    "backends": [
                        {"address": webs[0].address, "weight": 3},
                        {"address": webs[1].address, "weight": 1},
                    ],
                    "balance": "round_robin",
                },
                "least": {"backends": [echo.address for echo in echoes], "balance": "least_tunnels"},
                "half-dead": {"backends": [dead, echoes[1].address], "balance": "round_robin"},
                "no-retries": {"backends": [dead, webs[1].address], "balance": "round_robin", "connect_retries": 0},
            },
            "routes": [
                on("host-and-path", hosts=["both.example"], path="/both"),
                on("host", hosts=["exact.example", "Upper.Example"]),
                on("wildcard", hosts=["*.wild.example"]),
                on("exact", path_exact="/exact"),
                on("regex", path_regex="^/room/[0-9]+$"),
                on("stomp", "echo", path="/sub", subprotocols=["v10.stomp", "v11.stomp"]),
                on("mqtt", "echo", path="/sub", subprotocols=["mqtt"]),
                on("prefix", path="/prefix/"),
                on("inner-never", path="/prefix/inner"),
                on("named", "named", path="/named"),
                on("weighted", "weighted", path="/weighted"),
                on("least", "least", path="/least"),
                on("half-dead", "half-dead", path="/half-dead"),
                on("no-retries", "no-retries", path="/no-retries"),
            ],
        }
    )


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ("exact.example", "/", "host"),
        ("EXACT.example:8080", "/", "host"),
        ("exact.example.", "/", "host"),
        ("upper.example", "/", "host"),
        ("sub.exact.example", "/", None),
        ("a.wild.example", "/", "wildcard"),
        ("a.b.wild.example", "/", "wildcard"),
        ("wild.example", "/", None),
        ("evilwild.example", "/", None),
        ("both.example", "/both/x", "host-and-path"),
        ("both.example", "/other", None),
        ("x", "/both/x", None),
        ("x", "/exact", "exact"),
        ("x", "/exact?query=1", "exact"),
        ("x", "/exact/", None),
        ("x", "/room/42", "regex"),
        ("x", "/room/42/x", None),
        ("x", "/room/x", None),
        ("x", "/prefix", "prefix"),
        ("x", "/prefix/", "prefix"),
        ("x", "/prefix/inner", "prefix"),
        ("x", "/prefixed", None),
        ("x", "/PREFIX/", None),
        ("x", "/other/../prefix/x", "prefix"),
        ("x", "/prefix/../exact", "exact"),
        ("x", "/%70refix/x", "prefix"),
        ("x", "/./exact", "exact"),
        ("exact.example", "http://exact.example/", "host"),
        ("x", "/named/x", "named"),
    ],
)
async def test_the_first_route_that_matches_takes_a_request(
    gateway: Gateway, open_connection: Open, host: str, path: str, expected: str | None
) -> None:
    client = await open_connection(gateway)
    await client.send(request(path, host=host))
    answer = await client.answer()
    record = await gateway.logged(event="http", client=client.name)
    assert record["route"] == expected
    assert answer.status == (404 if expected is None else 200)


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (["Sec-WebSocket-Protocol: v11.stomp"], "stomp"),
        (["Sec-WebSocket-Protocol: x, v10.stomp"], "stomp"),
        (["Sec-WebSocket-Protocol: mqtt, v10.stomp"], "stomp"),
        (["Sec-WebSocket-Protocol: x", "Sec-WebSocket-Protocol: mqtt"], "mqtt"),
        (["Sec-WebSocket-Protocol: V10.STOMP"], None),
        ([], None),
    ],
)
async def test_a_route_may_ask_for_a_subprotocol(
    gateway: Gateway, open_connection: Open, offered: list[str], expected: str | None
) -> None:
    client = await open_connection(gateway)
    await client.send(handshake("/sub", *offered))
    assert (await client.head()).status == (101 if expected else 404)
    assert (await gateway.logged(event="handshake", client=client.name)).get("route") == expected


async def test_weights_in_round_robin(gateway: Gateway, open_connection: Open, webs: list[Web]) -> None:
    client = await open_connection(gateway)
    seen: Counter[str | None] = Counter()
    for _ in range(12):
        await client.send(request("/weighted"))
        seen[(await client.answer()).head.value("X-Backend")] += 1
    assert seen == {webs[0].address: 9, webs[1].address: 3}


async def test_least_tunnels_counts_across_all_workers(
    gateway: Gateway, open_connection: Open, echoes: list[Echo]
) -> None:
    async def open_one() -> Connection:
        client = await open_connection(gateway)
        await client.send(handshake("/least"))
        assert (await client.head()).status == 101
        return client

    clients = [await open_one() for _ in range(40)]
    scrape = await gateway.scrape()
    assert [scrape.value("gateway_tunnels", route="least", backend=echo.address) for echo in echoes] == [20, 20]
    assert all(worker["tunnels"] for worker in (await gateway.api("status"))["workers"]), "one worker has them all"

    by_name = {client.name: client for client in clients}
    for tunnel in (await gateway.api(f"tunnels?route=least&backend={echoes[0].address}"))["tunnels"]:
        await by_name[tunnel["client_address"]].close()
    await gateway.tunnels(0, route="least", backend=echoes[0].address)
    for _ in range(20):
        await open_one()
    scrape = await gateway.scrape()
    assert [scrape.value("gateway_tunnels", route="least", backend=echo.address) for echo in echoes] == [20, 20]


async def test_another_backend_is_tried_when_connecting_fails(
    gateway: Gateway, open_connection: Open, echoes: list[Echo]
) -> None:
    before = await gateway.scrape()
    for _ in range(4):
        client = await open_connection(gateway)
        await client.send(handshake("/half-dead"))
        assert (await client.head()).status == 101
        record = await gateway.logged(event="handshake", client=client.name)
        assert record["backend"] == echoes[1].address
    errors = "gateway_backend_connect_errors_total"
    after = await gateway.until(
        lambda now: now.value(errors, upstream="half-dead") > before.value(errors, upstream="half-dead"),
        "connect errors to be counted",
    )
    assert after.value("gateway_backend_up", upstream="half-dead", backend=echoes[1].address) == 1
    assert after.value("gateway_backend_up", upstream="half-dead") == 1  # of two


async def test_plain_requests_are_retried_on_another_backend_too(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway(
        {
            "upstreams": {"web": {"backends": [f"127.0.0.1:{free_port()}", web.address], "balance": "round_robin"}},
            "routes": [route("all", "web", "/")],
        }
    )
    client = await open_connection(gateway)
    for _ in range(4):
        await client.send(request("/x", "Content-Length: 4", method="POST") + b"body")
        answer = await client.answer()
        assert answer.status == 200
        assert b'"body": "body"' in answer.body


async def test_no_more_backends_are_tried_than_the_upstream_says(gateway: Gateway, open_connection: Open) -> None:
    statuses: Counter[int] = Counter()
    client = await open_connection(gateway)  # one, as each worker takes turns of its own
    for _ in range(4):
        await client.send(request("/no-retries"))
        statuses[(await client.answer()).status] += 1
    assert statuses == {200: 2, 502: 2}


async def test_concurrent_handshakes_are_all_served(gateway: Gateway, open_connection: Open) -> None:
    async def one() -> int:
        client = await open_connection(gateway)
        await client.send(handshake("/least"))
        return (await client.head()).status

    assert set(await asyncio.gather(*(one() for _ in range(200)))) == {101}
