"""Tunnels to backends with TLS: the session of the handshake goes on in the relay."""

from __future__ import annotations

import os
from typing import Any

import pytest
import pytest_asyncio
import websockets

from tests.conftest import Backends, Open, StartGateway
from tests.support.certificates import Authority
from tests.support.deadline import within
from tests.support.frames import CLOSE, TEXT, close, frame
from tests.support.gateway import NO_PINGS, Config, Gateway, route, to_one
from tests.support.ports import free_port
from tests.support.raw import handshake, switching
from tests.support.tls_servers import V12, V13, Bytewise, OwnTls, server

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])


@pytest.fixture(scope="module")
def good(authority: Authority) -> Any:
    return authority.issue("localhost", "127.0.0.1", file="good")


PATHS = {V12: "/v12", V13: "/v13"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(start_shared_gateway: StartGateway, authority: Authority) -> Gateway:
    """A gateway with an upstream for each version; tests start its backend by :func:`own`."""
    names = [path.removeprefix("/") for path in PATHS.values()]
    return await start_shared_gateway(
        {
            "upstreams": {
                name: {"backends": [f"127.0.0.1:{free_port()}"], "tls": {"ca": str(authority.ca)}} for name in names
            },
            "routes": [route(name, name) for name in names],
        }
    )


async def own(gateway: Gateway, files: Any, version: Any, **options: Any) -> OwnTls:
    """Start the backend of a version."""
    address = gateway.config["upstreams"][PATHS[version].removeprefix("/")]["backends"][0]
    return await OwnTls.start(files, version, port=int(address.rpartition(":")[2]), **options)


def to_tls(authority: Authority, backend: str, **keys: Any) -> Config:
    config = to_one(backend, **keys)
    config["upstreams"]["one"]["tls"] = {"ca": str(authority.ca)}
    return config


@VERSIONS
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_messages_of_all_sizes(
    start_gateway: StartGateway, backends: Backends, authority: Authority, good: Any, version: Any, bytewise: bool
) -> None:
    backend = await backends.echo(tls=server(good, version))
    between = await Bytewise.start(backend.address) if bytewise else None
    try:
        gateway = await start_gateway(to_tls(authority, between.address if between else backend.address))
        async with websockets.connect(gateway.ws("/x"), max_size=None, compression=None) as client:
            sizes = [0, 1, 125, 126, 1369, 16384, 16385, 20_000]
            if not bytewise:
                sizes += [70_000, 1_000_000, 6_000_000]
            for size in sizes:
                message = os.urandom(size)
                await client.send(message)
                assert await within(client.recv(), "an echo") == message
            await client.close(4321, "enough")
        await gateway.logged(event="tunnel_end", cause="close_frame", initiator="client")
    finally:
        if between is not None:
            await between.close()


async def test_a_tunnel_outlives_its_worker(
    start_gateway: StartGateway, backends: Backends, authority: Authority, good: Any
) -> None:
    connections = []
    gateway = await start_gateway(
        {
            "upstreams": {
                name: {
                    "backends": [(await backends.echo(tls=server(good, version))).address],
                    "tls": {"ca": str(authority.ca)},
                }
                for name, version in (("v12", V12), ("v13", V13))
            },
            "routes": [{"name": name, "match": {"path": f"/{name}"}, "upstream": name} for name in ("v12", "v13")],
            **NO_PINGS,
        }
    )
    for name in ("v12", "v13") * 3:
        client = await websockets.connect(gateway.ws(f"/{name}"), ping_interval=None, compression=None)
        connections.append(client)
        await client.send("before")
        assert await within(client.recv(), "an echo") == "before"
    for number in range(3):
        await gateway.kill_worker(in_store=True)
        for client in connections:
            await client.send(f"after {number}")
            assert await within(client.recv(), "an echo") == f"after {number}"
    scrape = await gateway.scrape()
    assert scrape.value("gateway_tunnels_adopted_total") == 18
    for client in connections:
        await client.close()


@VERSIONS
@pytest.mark.parametrize("pieces", [1, 2], ids=["one write", "in the middle of a record"])
async def test_frames_that_come_with_the_answer(
    shared: Gateway, good: Any, open_connection: Open, version: Any, pieces: int
) -> None:
    backend = await own(shared, good, version, answer=switching(), cut=30 if pieces == 2 else None)
    backend.behind = [frame(TEXT, b"first"), frame(TEXT, b"x" * 30_000)]
    try:
        client = await open_connection(shared)
        await client.send(handshake(PATHS[version]))
        assert (await client.head()).status == 101
        expected = b"".join(backend.behind)
        assert await client.read(len(expected)) == expected
        (link,) = backend.links
        if version is V13:
            for _ in range(3):
                link.update_key()
        link.say(frame(TEXT, b"more"))
        more = frame(TEXT, b"more")
        assert await client.read(len(more)) == more
    finally:
        await backend.close()


@VERSIONS
async def test_a_backend_that_accepts_and_closes_at_once(
    shared: Gateway, good: Any, open_connection: Open, version: Any
) -> None:
    backend = await own(shared, good, version, answer=switching(), ends=True)
    backend.behind = [frame(CLOSE, close(4401, "who are you"))]
    try:
        client = await open_connection(shared)
        await client.send(handshake(PATHS[version]))
        assert (await client.head()).status == 101
        assert await client.rest() == backend.behind[0]
        name = client.name
        await client.close()
        record = await shared.logged(event="tunnel_end", client=name)
        assert (record["initiator"], record["cause"]) == ("backend", "close_frame")
    finally:
        await backend.close()


@VERSIONS
@pytest.mark.parametrize("notified", [True, False], ids=["close_notify", "truncated"])
async def test_a_backend_that_vanishes(
    shared: Gateway, good: Any, open_connection: Open, version: Any, notified: bool
) -> None:
    backend = await own(shared, good, version, answer=switching())
    try:
        client = await open_connection(shared)
        await client.send(handshake(PATHS[version]))
        assert (await client.head()).status == 101
        (link,) = backend.links
        if notified:
            link.end()
        link.writer.close()
        assert await client.rest() == frame(CLOSE, close(1012))
        name = client.name
        await client.close()
        record = await shared.logged(event="tunnel_end", client=name)
        assert (record["initiator"], record["cause"]) == ("backend", "fin")
    finally:
        await backend.close()


@VERSIONS
async def test_the_backend_hears_of_the_end(shared: Gateway, good: Any, open_connection: Open, version: Any) -> None:
    backend = await own(shared, good, version, answer=switching())
    try:
        client = await open_connection(shared)
        await client.send(handshake(PATHS[version]))
        assert (await client.head()).status == 101
        client.half_close()
        (link,) = backend.links
        await within(link.over.wait(), "the end at the backend")
        assert link.was_notified
    finally:
        await backend.close()


@pytest.mark.either_build
@VERSIONS
async def test_a_declined_upgrade(
    start_gateway: StartGateway,
    backends: Backends,
    authority: Authority,
    good: Any,
    open_connection: Open,
    version: Any,
) -> None:
    backend = await backends.scripted(tls=server(good, version))
    body = os.urandom(200_000)
    backend.answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    gateway = await start_gateway(to_tls(authority, backend.address))
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    answer = await client.answer()
    assert (answer.status, answer.body) == (403, body)
