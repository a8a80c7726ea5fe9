"""What metrics and the access log say of plain requests, however they end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted, Web
from tests.support.deadline import SCALE, quiet_for, within
from tests.support.gateway import Gateway, route, to_one
from tests.support.ports import free_port
from tests.support.raw import Connection, handshake, request
from tests.support.scrape import Scrape

from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

DEAD = f"127.0.0.1:{free_port()}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, web: Web, scripted: Scripted) -> Gateway:
    return await start_shared_gateway(
        {
            "workers": 2,
            "timeouts": {"response": "500ms"},
            "upstreams": {
                "web": {"backends": [web.address]},
                "scripted": {"backends": [scripted.address]},
                "dead": {"backends": [DEAD], "connect_retries": 0},
            },
            "routes": [
                route("web", "web", timeouts={"response": "1m"}),
                route("scripted", "scripted"),
                route("dead", "dead"),
                route("tunnels-only", "web", http="reject"),
            ],
        }
    )


async def in_flight(gateway: Gateway, count: int, **labels: str) -> Scrape:
    return await gateway.until(
        lambda scrape: scrape.value("gateway_http_requests", **labels) == count, f"{count} requests in flight"
    )


async def ask(gateway: Gateway, open_connection: Open, data: bytes) -> dict[str, Any]:
    """Send a request on a connection of its own, and see it to its end; its line in the log."""
    client = await open_connection(gateway)
    await client.send(data)
    await client.ends() if b"Connection: close" in data else await client.answer()
    return await gateway.logged(event="http", client=client.name)


# --- metrics ----------------------------------------------------------------------------------------------------------


async def test_requests_in_flight_are_counted_until_they_end(
    gateway: Gateway, open_connection: Open, web: Web, scripted: Scripted
) -> None:
    """However they end, and each of them once in the counter and the histogram."""

    async def answered(client: Connection) -> None:
        web.events["/web/answered/poll"].put_nowait("news")
        await client.answer()

    async def client_gone(client: Connection) -> None:
        await client.close()

    async def client_reset(client: Connection) -> None:
        client.reset()

    async def backend_gone(client: Connection) -> None:
        web.events["/web/backend_gone/poll"].put_nowait(None)  # a used connection's request is tried again
        web.events["/web/backend_gone/poll"].put_nowait(None)
        assert (await client.answer()).status == 502

    before = await gateway.scrape()
    for end in (answered, client_gone, client_reset, backend_gone):
        path = f"/web/{end.__name__}/poll"
        client = await open_connection(gateway)
        await client.send(request(path))
        await within(web.arrived[path].wait(), "the poll at the backend")
        await in_flight(gateway, 1, route="web")
        await end(client)
        await in_flight(gateway, 0, route="web")
    scripted.answers(OK)
    late = asyncio.Event()

    async def silent(connection: Connection) -> None:
        await late.wait()

    await ask(gateway, open_connection, request("/dead/"))
    await ask(gateway, open_connection, request("/nowhere"))
    await ask(gateway, open_connection, request("/tunnels-only"))
    await ask(gateway, open_connection, request("/scripted/"))
    scripted.plays(silent)
    await ask(gateway, open_connection, request("/scripted/late"))
    late.set()
    scripted.answers(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
    declined = await open_connection(gateway)
    await declined.send(handshake("/scripted/declined"))
    assert (await declined.answer()).status == 403
    after = await in_flight(gateway, 0)
    wanted = {
        ("web", "200"): 1,
        ("web", "499"): 2,
        ("web", "502"): 1,
        ("dead", "502"): 1,
        ("-", "404"): 1,
        ("tunnels-only", "426"): 1,
        ("scripted", "200"): 1,
        ("scripted", "504"): 1,
    }
    for (name, code), count in wanted.items():
        await gateway.counts(before, "gateway_http_requests_total", count, route=name, code=code)
    after = await gateway.scrape()
    total = "gateway_http_requests_total"
    assert after.value(total) - before.value(total) == sum(wanted.values())
    for name in {name for name, _ in wanted}:
        seen = "gateway_http_request_duration_seconds_count"
        assert after.value(seen, route=name) == after.value(total, route=name)
    buckets = {
        sample.labels["le"]: sample.value
        for sample in after.samples("gateway_http_request_duration_seconds_bucket", route="scripted")
    }
    assert buckets["+Inf"] - buckets["0.25"] == 1  # the one that was late


async def test_where_connections_to_backends_come_from(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    client, tunnel = await open_connection(gateway), await open_connection(gateway)
    labels = {"upstream": "one", "backend": web.address}

    async def used(dialled: int, kept: int, tunnels: int, idle: int) -> None:
        def found(scrape: Scrape) -> tuple[float, ...]:
            name = "gateway_backend_connections_total"
            return (
                scrape.value(name, **labels, **{"for": "request", "from": "dial"}),
                scrape.value(name, **labels, **{"for": "request", "from": "pool"}),
                scrape.value(name, **labels, **{"for": "tunnel", "from": "dial"}),
                scrape.value("gateway_backend_connections_idle", **labels),
            )

        wanted = (dialled, kept, tunnels, idle)
        scrape = await gateway.until(lambda scrape: found(scrape) == wanted, f"connections to be {wanted}")
        assert sum(wanted[:3]) == scrape.value("gateway_backend_connections_total")

    await used(0, 0, 0, 0)
    await client.send(request("/a/x"))
    await client.answer()
    await used(1, 0, 0, 1)
    await client.send(request("/a/poll"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")
    await used(1, 1, 0, 0)
    web.events["/a/poll"].put_nowait("news")
    await client.answer()
    await used(1, 1, 0, 1)
    await tunnel.send(handshake("/a/ws"))  # a tunnel's connection is always its own
    assert (await tunnel.head()).status == 101
    await used(1, 1, 1, 1)
    await client.send(request("/a/close", "Connection: close"))
    await client.answer()
    await used(1, 2, 1, 1)


@pytest.mark.parametrize("how", ["kill", "upgrade"])
async def test_a_new_worker_starts_with_what_is_in_flight(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, how: str
) -> None:
    """What a dead worker had in flight is so no more; what the worker before an upgrade has goes on being counted."""
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    clients = [await open_connection(gateway) for _ in range(3)]
    for number, client in enumerate(clients[1:]):
        await client.send(request(f"/{number}/poll"))
        await within(web.arrived[f"/{number}/poll"].wait(), "the poll at the backend")
    await clients[0].send(request("/a/x"))
    await clients[0].answer()
    scrape = await in_flight(gateway, 2)
    assert scrape.value("gateway_backend_connections_idle") == 1
    if how == "kill":
        gateway.tolerate("worker .* was killed by SIGKILL")
        os.kill((await gateway.worker_pids())[0], signal.SIGKILL)
        await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
    else:
        await upgrade(gateway, wait=False)
        await in_flight(gateway, 2)
        for number, client in enumerate(clients[1:]):
            web.events[f"/{number}/poll"].put_nowait("news")
            assert (await client.answer()).text == "news"
    await in_flight(gateway, 0)
    # Connections are a process's own: what the worker before kept has ended with it.
    await gateway.until(lambda scrape: scrape.value("gateway_backend_connections_idle") == 0, "none to be idle")
    client = await open_connection(gateway)
    await client.send(request("/a/x"))
    assert (await client.answer()).status == 200
    await gateway.until(lambda scrape: scrape.value("gateway_backend_connections_idle") == 1, "one to be idle")


# --- the access log ---------------------------------------------------------------------------------------------------


async def test_the_line_of_an_answered_request(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    body = b"3;x=y\r\nabc\r\n0\r\n\r\n"
    begun = asyncio.Event()

    async def script(connection: Connection) -> None:
        await scripted.request(connection)
        await connection.read(len(body))
        await quiet_for(0.1)  # until the answer's first byte
        await connection.send(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n")
        await within(begun.wait(), "the head at the client")
        await quiet_for(0.1)  # until its last byte
        await connection.send(b"2\r\nok\r\n0\r\n\r\n")

    scripted.plays(script)
    client = await open_connection(gateway)
    start = time.monotonic()
    await client.send(request("/scripted/x?token=secret", "Transfer-Encoding: chunked", method="PUT") + body)
    assert (await client.head()).status == 201
    begun.set()
    assert await client.chunked() == b"ok"
    took = time.monotonic() - start
    record = await gateway.logged(event="http", client=client.name)
    head = await scripted.next_head()
    assert record["request_id"] == head.value("X-Request-Id")
    assert (
        record.items()
        >= {
            "route": "scripted",
            "backend": scripted.address,
            "method": "PUT",
            "host": "gateway.test",
            "path": "/scripted/x",
            "status": 201,
            "initiator": None,
            "cause": None,
            "reason": None,
            "request_bytes": len(body),
            "bytes": len(b"2\r\nok\r\n0\r\n\r\n"),
        }.items()
    )
    assert 0.1 < record["first_byte"] < record["duration"] - 0.09
    assert 0.2 < record["duration"] < took + SCALE  # it is measured behind the last byte


@pytest.mark.parametrize(
    ("data", "logged"),
    [
        (request("/dead/x"), (502, "dead", DEAD, None, None, "the backend cannot be reached: Connection refused")),
        (request("/nowhere"), (404, None, None, None, None, "no route for host 'gateway.test' and path '/nowhere'")),
        (request("/tunnels-only"), (426, "tunnels-only", None, None, None, "only WebSocket is served here")),
    ],
    ids=["dead", "no route", "rejected"],
)
async def test_the_line_of_a_request_that_reached_no_backend(
    gateway: Gateway, open_connection: Open, data: bytes, logged: tuple[object, ...]
) -> None:
    record = await ask(gateway, open_connection, data)
    fields = ("status", "route", "backend", "initiator", "cause", "reason")
    assert tuple(record[field] for field in fields) == logged
    assert (record["request_bytes"], record["bytes"], record["first_byte"]) == (0, 0, None)
    assert 0 < record["duration"] < 5


@pytest.mark.parametrize(
    ("answer", "logged"),
    [
        (b"", (502, "backend", "fin", "the backend closed the connection without an answer", 0)),
        (b"HTTP/1.1 200 O", (502, "backend", "fin", "the backend broke off its answer", 0)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", (200, "backend", "fin", None, 3)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", (200, "backend", "fin", None, 8)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", (502, None, None, "", 0)),
        (b"nonsense\r\n\r\n", (502, None, None, "", 0)),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", (502, None, None, "", 0)),
    ],
    ids=["nothing", "half a head", "length", "chunked", "no chunk", "no HTTP", "101"],
)
async def test_the_line_of_a_backend_that_failed(
    gateway: Gateway, open_connection: Open, scripted: Scripted, answer: bytes, logged: tuple[object, ...]
) -> None:
    scripted.answers(answer)
    record = await ask(gateway, open_connection, request("/scripted/x", "Connection: close"))
    assert record["backend"] == scripted.address
    *but_bytes, sent = logged
    found = [record[field] for field in ("status", "initiator", "cause", "reason")]
    if logged[3] == "":
        assert "the backend's answer is" in found[3]
        found[3] = ""
    assert found == but_bytes
    assert record["bytes"] == sent
    assert (record["first_byte"] is None) == (record["status"] == 502)


# --- the bound --------------------------------------------------------------------------------------------------------


async def test_no_more_requests_than_there_is_room_for(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway({"max_tunnels": 2, **to_one(web.address)})
    clients = [await open_connection(gateway) for _ in range(3)]
    for number, client in enumerate(clients[:2]):
        await client.send(request(f"/{number}/poll"))
        await within(web.arrived[f"/{number}/poll"].wait(), "the poll at the backend")
    before = await gateway.scrape()
    late = clients[2]
    for _ in range(2):  # it may ask again on the same connection
        await late.send(request("/a/late"))
        answer = await late.answer()
        assert (answer.status, answer.head.value("Retry-After")) == (503, "5")
        assert "max_tunnels" in answer.text
        record = await gateway.logged(event="http", client=late.name)
        assert (record["status"], record["route"]) == (503, "all")
        assert record["reason"] == answer.text.partition(": ")[2].strip()
    await gateway.counts(before, "gateway_http_requests_total", 2, route="all", code="503")
    web.events["/0/poll"].put_nowait("news")
    assert (await clients[0].answer()).text == "news"
    await late.send(request("/a/late"))
    assert (await late.answer()).status == 200
    assert web.arrived["/a/late"].is_set()
