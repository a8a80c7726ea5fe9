"""Key sets that a running gateway fetches: the server down, back, rotated, gone while everything else is replaced."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.integration.upgrades import upgrade
from tests.support.backends import Web
from tests.support.deadline import DEADLINE_SECONDS, eventually
from tests.support.gateway import Gateway, route
from tests.support.key_server import KeyServer
from tests.support.raw import Connection, request
from tests.support.tokens import jwk, signed

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

CONNECTIONS = 40
"""Over two workers: neither gets none of them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[KeyServer]:
    started = await KeyServer.start()
    started.keys = keys("one")
    yield started
    await started.down()


@pytest_asyncio.fixture(loop_scope="module")
async def start_gateway(server: KeyServer, start_gateway: StartGateway) -> StartGateway:
    """Starts gateways that end before the server does."""
    return start_gateway


def keys(*names: str) -> list[dict[str, str]]:
    return [jwk("ES256", name, kid=name) for name in names]


def config(web: Web, url: str, refresh: str = "1h") -> dict[str, object]:
    return {
        "workers": 2,
        "upstreams": {"web": {"backends": [web.address]}},
        "routes": [
            route("tokens", "web", auth={"jwt": {"keys": url, "refresh": refresh, "algorithms": ["ES256"]}}),
            route("rest", "web", "/"),
        ],
    }


def ask(name: str) -> bytes:
    """A request with a token that is signed with a key."""
    return request("/tokens/x", f"Authorization: Bearer {signed('ES256', name, {'kid': name})}")


async def statuses(gateway: Gateway, open_connection: Open, name: str, connections: int = CONNECTIONS) -> Counter[int]:
    """What requests with such tokens get that come at once."""

    async def one() -> int:
        client = await open_connection(gateway)
        await client.send(ask(name))
        return (await client.answer()).status

    return Counter(await asyncio.gather(*(one() for _ in range(connections))))


async def fetched(gateway: Gateway, entries: int | None, error: str | None = None) -> None:
    """Wait until the gateway says so of its key set."""

    async def shown() -> bool:
        (found,) = (await gateway.api("status"))["credentials"]
        return (
            found["entries"] == entries
            and (error or "") in (found["error"] or "")
            and bool(error) is bool(found["error"])
        )

    await eventually(shown, "the key set", 2 * DEADLINE_SECONDS)


async def gets(client: Connection, name: str, status: int) -> None:
    """Wait until a request with such a token gets this status: workers hear of keys behind the supervisor."""

    async def once() -> bool:
        await client.send(ask(name))
        return (await client.answer()).status == status

    await eventually(once, f"{status} for a token of key {name}")


async def all_get(gateway: Gateway, open_connection: Open, name: str, status: int) -> None:
    """As :func:`gets`, for requests at all workers."""

    async def once() -> bool:
        return await statuses(gateway, open_connection, name) == {status: CONNECTIONS}

    await eventually(once, f"{status} for tokens of key {name}")


async def test_keys_change(start_gateway: StartGateway, web: Web, server: KeyServer, open_connection: Open) -> None:
    gateway = await start_gateway(config(web, server.url))
    await fetched(gateway, 1)
    await all_get(gateway, open_connection, "one", 200)
    assert len(server.asked) == 1

    # Many tokens of a new key, at both workers, cause one fetch, and all of them are let in.
    server.keys = keys("one", "two")
    assert await statuses(gateway, open_connection, "two") == {200: CONNECTIONS}
    assert len(server.asked) == 2

    # Made-up keys cause no more now, and are refused at once.
    requests = len(web.connections)
    assert await statuses(gateway, open_connection, "three") == {401: CONNECTIONS}
    assert len(server.asked) == 2
    assert len(web.connections) == requests
    assert await statuses(gateway, open_connection, "one") == {200: CONNECTIONS}


async def test_a_key_that_is_withdrawn(
    start_gateway: StartGateway, web: Web, server: KeyServer, open_connection: Open
) -> None:
    server.keys = keys("one", "two")
    gateway = await start_gateway(config(web, server.url, "1s"))
    await fetched(gateway, 2)
    client = await open_connection(gateway)
    await gets(client, "one", 200)
    server.keys = keys("two")
    await fetched(gateway, 1)
    await gets(client, "one", 401)
    await client.send(ask("two"))
    assert (await client.answer()).status == 200


async def test_no_server_at_the_start(
    start_gateway: StartGateway, web: Web, server: KeyServer, open_connection: Open
) -> None:
    """Nothing waits for it, other routes least of all."""
    await server.down()
    gateway = await start_gateway(config(web, server.url))
    gateway.tolerate("key set .* cannot be fetched: cannot connect: connection refused; requests with tokens get 503")
    client = await open_connection(gateway)
    await client.send(request("/rest"))
    assert (await client.answer()).status == 200
    await client.send(ask("one"))
    assert (await client.answer()).status == 503
    await fetched(gateway, None, "cannot connect")
    await server.up()
    await fetched(gateway, 1)  # a failure is followed by another attempt soon
    await gets(client, "one", 200)


async def test_a_server_that_is_gone_for_long(
    start_gateway: StartGateway, web: Web, server: KeyServer, open_connection: Open
) -> None:
    """Workers die, the configuration is reloaded and the program replaced; the keys stay."""
    gateway = await start_gateway(config(web, server.url, "1s"))
    await fetched(gateway, 1)
    await server.down()
    gateway.tolerate("key set .* cannot be fetched: .*; the keys from before stay")
    await fetched(gateway, 1, "cannot connect")
    await gateway.until(
        lambda scrape: scrape.value("gateway_key_set_fetches_total", route="tokens", result="failed") >= 2, "failures"
    )
    assert await statuses(gateway, open_connection, "one") == {200: CONNECTIONS}

    pids = [await gateway.kill_worker(index) for index in range(2)]
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 2, "other workers")
    assert not set(pids) & set(await gateway.worker_pids())
    assert await statuses(gateway, open_connection, "one") == {200: CONNECTIONS}

    gateway.write(config(web, server.url, "2s"))
    await gateway.reload()
    assert await statuses(gateway, open_connection, "one") == {200: CONNECTIONS}

    await upgrade(gateway)
    await fetched(gateway, 1, "cannot connect")
    assert await statuses(gateway, open_connection, "one") == {200: CONNECTIONS}
    await eventually(
        lambda: len([line for line in gateway.stderr.lines if "cannot be fetched" in line]) == 2, "a line each"
    )

    server.keys = keys("one", "two")
    await server.up()
    await fetched(gateway, 2)
    await all_get(gateway, open_connection, "two", 200)
    await gateway.stderr.containing("fetched again after")


async def test_another_url_after_a_reload(
    start_gateway: StartGateway, web: Web, server: KeyServer, open_connection: Open
) -> None:
    other = await KeyServer.start()
    try:
        other.keys = keys("two")
        gateway = await start_gateway(config(web, server.url))
        await fetched(gateway, 1)
        gateway.write(config(web, other.url))
        await gateway.reload()
        client = await open_connection(gateway)
        await gets(client, "two", 200)
        await client.send(ask("one"))
        assert (await client.answer()).status == 401
        assert len(server.asked) == 1
    finally:
        await other.down()
