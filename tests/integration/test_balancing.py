"""Which backend gets a request: by hash, by cookie, by what backends can carry."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Echo, Web
from tests.support.gateway import Gateway, route
from tests.support.proxied import ProxyBackend
from tests.support.raw import Connection, Head, handshake, request

from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

HASHES = {
    "path": "path",
    "header": "header:X-Room",
    "cookie": "cookie:room",
    "query": "query:room",
    "client": "client_ip",
}
COOKIE = re.compile(r"gateway_backend=([A-Za-z0-9_-]{32}); Path=/; HttpOnly; SameSite=Lax")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webs(shared_backends: Backends) -> list[Web]:
    return [await shared_backends.web() for _ in range(3)]


def config_of(addresses: list[Any]) -> dict[str, Any]:
    hashed = {
        name: {"backends": addresses, "balance": "consistent_hash", "hash_on": hash_on}
        for name, hash_on in HASHES.items()
    }
    sticky = {"backends": addresses, "balance": "sticky"}
    return {
        "workers": 2,
        "trusted_proxies": ["127.0.0.1"],
        "upstreams": {**hashed, "sticky": sticky},
        "routes": [route(name, name, f"/{name}/") for name in (*hashed, "sticky")],
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateways(start_shared_gateway: StartGateway, webs: list[Web]) -> list[Gateway]:
    """Two that were started apart, with their backends in different orders."""
    addresses = [web.address for web in webs]
    return [
        await start_shared_gateway(config_of(addresses)),
        await start_shared_gateway(config_of(addresses[::-1])),
    ]


def asking(source: str, room: int) -> bytes:
    fields = ["X-Forwarded-For: 192.0.2.1"]
    if source == "header":
        fields.append(f"X-Room: {room}")
    elif source == "cookie":
        fields.append(f"Cookie: a=1; room={room}; b=2")
    elif source == "client":
        fields = [f"X-Forwarded-For: 192.0.2.{room}"]
    path = f"/path/{room}" if source == "path" else f"/{source}/x?room={room}" if source == "query" else f"/{source}/x"
    return request(path, *fields)


async def backend_of(client: Connection, asked: bytes) -> str:
    await client.send(asked)
    backend = (await client.answer()).head.value("X-Backend")
    assert backend is not None
    return backend


# --- consistent_hash --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", HASHES)
async def test_a_key_leads_to_one_backend_from_every_worker_and_gateway(
    gateways: list[Gateway], open_connection: Open, source: str
) -> None:
    clients = [await open_connection(gateway) for gateway in gateways for _ in range(4)]  # two or more workers' of each
    found = []
    for client in clients:
        found.append([await backend_of(client, asking(source, room)) for room in range(30)])
    assert all(each == found[0] for each in found)
    assert len(set(found[0])) == 3


@pytest.mark.parametrize("source", ["header", "cookie", "query"])
async def test_without_a_key_the_clients_address_decides(
    gateways: list[Gateway], open_connection: Open, source: str
) -> None:
    client = await open_connection(gateways[0])
    for last in range(10):
        address = f"X-Forwarded-For: 192.0.2.{last}"
        by_address = await backend_of(client, request("/client/", address))
        assert await backend_of(client, request(f"/{source}/", address)) == by_address


async def test_ports_and_spellings_of_an_address_do_not_matter(gateways: list[Gateway], open_connection: Open) -> None:
    client = await open_connection(gateways[0])
    for same in (
        ["192.0.2.7", "192.0.2.7:1234", "::ffff:192.0.2.7"],
        ["2001:db8::7", "[2001:DB8:0::7]:99", '"[2001:db8::7]"'],
    ):
        assert len({await backend_of(client, request("/client/", f"X-Forwarded-For: {one}")) for one in same}) == 1
    direct = [await open_connection(gateways[0]) for _ in range(4)]  # each from a port of its own
    assert len({await backend_of(one, request("/client/")) for one in direct}) == 1


async def test_a_tunnel_goes_where_requests_go(gateways: list[Gateway], open_connection: Open) -> None:
    client = await open_connection(gateways[0])
    for room in range(6):
        expected = await backend_of(client, request(f"/query/x?room={room}"))
        tunnel = await open_connection(gateways[1])
        await tunnel.send(handshake(f"/query/ws?room={room}"))
        assert (await tunnel.head()).status == 101
        assert (await gateways[1].logged(event="handshake", client=tunnel.name))["backend"] == expected


async def test_a_backend_that_fails_moves_its_own_keys_only(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    webs = [await backends.web() for _ in range(3)]
    gateway = await start_gateway(config_of([web.address for web in webs]))
    client = await open_connection(gateway)
    before = [await backend_of(client, asking("query", room)) for room in range(30)]
    await webs[0].close()
    after = [await backend_of(client, asking("query", room)) for room in range(30)]
    gone = webs[0].address
    assert [room for room in range(30) if before[room] != after[room]] == [
        room for room in range(30) if before[room] == gone
    ]
    assert set(after) == {webs[1].address, webs[2].address}


async def test_connections_with_a_proxy_header_follow_the_key_too(
    start_gateway: StartGateway, open_connection: Open
) -> None:
    """Such a connection is kept for its client, but not for requests that belong elsewhere."""
    servers = [await ProxyBackend.start() for _ in range(2)]
    try:
        gateway = await start_gateway(
            {
                "upstreams": {
                    "chat": {
                        "backends": [server.address for server in servers],
                        "balance": "consistent_hash",
                        "hash_on": "query:room",
                        "proxy_protocol": "v2",
                    }
                },
                "routes": [route("all", "chat", "/")],
            }
        )
        client = await open_connection(gateway)
        for _ in range(2):
            for room in range(12):
                await client.send(request(f"/?room={room}"))
                assert (await client.answer()).status == 200
        where = [{head.target for accepted in server.connections for head in accepted.requests} for server in servers]
        assert where[0]
        assert where[1]
        assert not where[0] & where[1]
        assert sum(len(server.connections) for server in servers) < 24, "a connection was not used again"
    finally:
        for server in servers:
            await server.close()


# --- sticky -----------------------------------------------------------------------------------------------------------


async def asked(client: Connection, *cookies: str, path: str = "/sticky/x") -> Head:
    await client.send(request(path, *(f"Cookie: {cookie}" for cookie in cookies)))
    return (await client.answer()).head


def value_in(head: Head) -> str:
    (line,) = head.values("set-cookie")
    match = COOKIE.fullmatch(line)
    assert match is not None, line
    return match[1]


async def test_polls_and_the_upgrade_behind_them_reach_one_backend(
    gateways: list[Gateway], open_connection: Open
) -> None:
    gateway = gateways[0]
    for _ in range(3):
        client = await open_connection(gateway)
        first = await asked(client)
        cookie = f"theme=dark; gateway_backend={value_in(first)}"
        for _ in range(6):
            poll = await asked(await open_connection(gateway), cookie)
            assert poll.value("X-Backend") == first.value("X-Backend")
            assert poll.values("set-cookie") == []
        tunnel = await open_connection(gateway)
        await tunnel.send(handshake("/sticky/ws", f"Cookie: {cookie}"))
        answer = await tunnel.head()
        assert (answer.status, answer.values("set-cookie")) == (101, [])
        record = await gateway.logged(event="handshake", client=tunnel.name)
        assert record["backend"] == first.value("X-Backend")


async def test_the_101_has_a_cookie_where_the_client_has_none(gateways: list[Gateway], open_connection: Open) -> None:
    gateway = gateways[0]
    for _ in range(2):  # the second answer is one whose wording is known
        tunnel = await open_connection(gateway)
        await tunnel.send(handshake("/sticky/ws"))
        answer = await tunnel.head()
        assert answer.status == 101
        await tunnel.echoes(b"\x81\x82\0\0\0\0hi", b"\x81\x02hi")
        record = await gateway.logged(event="handshake", client=tunnel.name)
        poll = await asked(await open_connection(gateway), f"gateway_backend={value_in(answer)}")
        assert poll.value("X-Backend") == record["backend"]


@pytest.mark.parametrize("forged", ["x", "", "A" * 32, "=" * 32, "\xff" * 32])
async def test_a_forged_cookie_is_ignored_and_replaced(
    gateways: list[Gateway], open_connection: Open, forged: str
) -> None:
    client = await open_connection(gateways[0])
    head = await asked(client, f"gateway_backend={forged}")
    assert head.status == 200
    again = await asked(client, f"gateway_backend={value_in(head)}")
    assert again.value("X-Backend") == head.value("X-Backend")


async def test_a_cookie_of_another_gateway_counts_only_with_a_shared_secret(
    gateways: list[Gateway], open_connection: Open, start_gateway: StartGateway, webs: list[Web]
) -> None:
    one, other = await open_connection(gateways[0]), await open_connection(gateways[1])
    value_in(await asked(other, f"gateway_backend={value_in(await asked(one))}"))
    config = config_of([web.address for web in webs])
    config["upstreams"]["sticky"]["sticky"] = {"secret": "the secret of all machines", "ttl": "1h"}
    sharing = [await open_connection(await start_gateway(config)) for _ in range(2)]
    await sharing[0].send(request("/sticky/x"))
    answer = (await sharing[0].answer()).head
    (line,) = answer.values("set-cookie")
    assert line.endswith("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600")
    there = await asked(sharing[1], line.partition(";")[0])
    assert there.value("X-Backend") == answer.value("X-Backend")
    assert there.values("set-cookie") == []


async def test_the_backend_gets_the_request_as_it_came(gateways: list[Gateway], open_connection: Open) -> None:
    client = await open_connection(gateways[0])
    cookie = f"a=1; gateway_backend={value_in(await asked(client))}; b=2"
    await client.send(request("/sticky/x", f"Cookie: {cookie}"))
    answer = await client.answer()
    assert f'["Cookie", "{cookie}"]' in answer.text


async def test_cookies_outlive_reloads_workers_and_upgrades(
    start_gateway: StartGateway, open_connection: Open, webs: list[Web]
) -> None:
    config = config_of([web.address for web in webs])
    gateway = await start_gateway(config)
    first = await asked(await open_connection(gateway))
    cookie = f"gateway_backend={value_in(first)}"
    config["upstreams"]["sticky"]["connect_retries"] = 1
    gateway.write(config)
    await gateway.reload()
    for index in range(2):
        await gateway.kill_worker(index)
    await upgrade(gateway)
    for _ in range(4):
        head = await asked(await open_connection(gateway), cookie)
        assert (head.value("X-Backend"), head.values("set-cookie")) == (first.value("X-Backend"), [])


async def test_a_failed_backend_changes_the_cookie(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    webs = [await backends.web() for _ in range(2)]
    gateway = await start_gateway(config_of([web.address for web in webs]))
    client = await open_connection(gateway)
    first = await asked(client)
    (gone,) = [web for web in webs if web.address == first.value("X-Backend")]
    await gone.close()
    second = await asked(client, f"gateway_backend={value_in(first)}")
    assert second.value("X-Backend") != gone.address
    third = await asked(client, f"gateway_backend={value_in(second)}")
    assert third.values("set-cookie") == []


# --- what backends can carry ------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echoes(shared_backends: Backends) -> list[Echo]:
    return [await shared_backends.echo() for _ in range(4)]


def to(upstream: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"workers": 2, "upstreams": {"chat": upstream}, "routes": [route("all", "chat", "/")], **more}


async def opened(client: Connection) -> int:
    await client.send(handshake("/"))
    return (await client.head()).status


async def test_max_tunnels_over_all_workers(
    start_gateway: StartGateway, open_connection: Open, echoes: list[Echo]
) -> None:
    backends = [{"address": echo.address, "max_tunnels": 5} for echo in echoes[:2]]
    gateway = await start_gateway(to({"backends": backends}))
    clients = [await open_connection(gateway) for _ in range(14)]
    assert [await opened(client) for client in clients] == [101] * 10 + [503] * 4
    assert b"all backends are full (max_tunnels)" in await clients[-1].rest()
    record = await gateway.logged(event="handshake", client=clients[-1].name)
    assert (record["result"], record["status"]) == ("unavailable", 503)
    scrape = await gateway.tunnels(10)
    assert [scrape.value("gateway_tunnels", backend=echo.address) for echo in echoes[:2]] == [5, 5]
    await clients[3].close()
    await gateway.tunnels(9)
    assert await opened(await open_connection(gateway)) == 101
    assert await opened(await open_connection(gateway)) == 503


async def test_a_full_backend_leaves_it_to_the_backup(
    start_gateway: StartGateway, open_connection: Open, echoes: list[Echo]
) -> None:
    first = {"address": echoes[0].address, "max_tunnels": 2}
    gateway = await start_gateway(to({"backends": [{"address": echoes[1].address, "backup": True}, first]}))
    for _ in range(5):
        assert await opened(await open_connection(gateway)) == 101
    scrape = await gateway.tunnels(5)
    assert [scrape.value("gateway_tunnels", backend=echo.address) for echo in echoes[:2]] == [2, 3]


async def test_drain_true_keeps_tunnels_and_gets_no_new_ones(
    start_gateway: StartGateway, open_connection: Open, echoes: list[Echo]
) -> None:
    addresses = [echo.address for echo in echoes[:2]]
    gateway = await start_gateway(to({"backends": addresses}))
    clients = [await open_connection(gateway) for _ in range(4)]
    assert [await opened(client) for client in clients] == [101] * 4
    gateway.write(to({"backends": [{"address": addresses[0], "drain": True}, addresses[1]]}))
    await gateway.reload()
    assert [await opened(await open_connection(gateway)) for _ in range(4)] == [101] * 4
    scrape = await gateway.tunnels(8)
    assert [scrape.value("gateway_tunnels", backend=address) for address in addresses] == [2, 6]
    assert [scrape.value("gateway_backend_drained", backend=address) for address in addresses] == [1, 0]
    (upstream,) = (await gateway.api("status"))["upstreams"]
    assert [backend["drained"] for backend in upstream["backends"]] == [True, False]
    for client in clients:
        await client.echoes(b"\x81\x82\0\0\0\0hi", b"\x81\x02hi")
    gateway.write(to({"backends": [{"address": address, "drain": True} for address in addresses]}))
    await gateway.reload()
    last = await open_connection(gateway)
    assert await opened(last) == 503
    assert b"no backend is in service" in await last.rest()


@pytest.mark.parametrize("balance", ["least_tunnels", "random_two"])
async def test_tunnels_spread_evenly_over_backends_whatever_worker_has_them(
    start_gateway: StartGateway, open_connection: Open, echoes: list[Echo], balance: str
) -> None:
    weights = [1, 1, 2, 1]
    backends = [{"address": echo.address, "weight": weight} for echo, weight in zip(echoes, weights, strict=True)]
    gateway = await start_gateway(to({"backends": backends, "balance": balance}))
    for _ in range(8):
        statuses = await asyncio.gather(*[opened(await open_connection(gateway)) for _ in range(50)])
        assert Counter(statuses) == {101: 50}
    scrape = await gateway.tunnels(400)
    assert all(worker["tunnels"] for worker in (await gateway.api("status"))["workers"])
    tolerance = 0.05 if balance == "least_tunnels" else 0.2
    for backend in backends:
        share = 400 * backend["weight"] / 5
        found = scrape.value("gateway_tunnels", backend=backend["address"])
        assert abs(found - share) <= tolerance * share, backend
