"""Connections to backends with TLS: which backend is tried next, what a pooled one may say, ends, reloads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted
from tests.support.certificates import DAY, Authority
from tests.support.deadline import eventually, quiet_for, within
from tests.support.gateway import Config, Gateway, route, to_one
from tests.support.ports import free_port
from tests.support.raw import Connection, handshake, request
from tests.support.tls_servers import V12, V13, OwnTls, server

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])


@pytest.fixture(scope="module")
def good(authority: Authority) -> Any:
    return authority.issue("localhost", "127.0.0.1", "::1", file="good")


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


def to_tls(authority: Authority, *backends: str, **keys: Any) -> Config:
    """A configuration with one upstream. :param keys: more of its ``tls``"""
    config = to_one(backends[0])
    config["upstreams"]["one"] |= {
        "backends": list(backends),
        "tls": {"ca": str(authority.ca), **keys},
        "balance": "round_robin",
    }
    return config


async def ask(connection: Connection, path: str = "/", *fields: str, method: str = "GET") -> tuple[int, str]:
    await connection.send(request(path, *fields, method=method))
    answer = await connection.answer()
    return answer.status, answer.text


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    with os.scandir(f"/proc/{pid}/fd") as entries:
        found = 0
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                found += os.readlink(entry.path).startswith("socket:")
        return found


async def serves(backend: Scripted, connection: Connection) -> None:
    """Answer every request."""
    while True:
        try:
            await backend.request(connection)
        except AssertionError:
            return  # the connection ended
        await connection.send(OK)


# --- which backend ----------------------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_another_backend_is_tried(
    start_gateway: StartGateway, backends: Backends, authority: Authority, good: Any, open_connection: Open
) -> None:
    expired = authority.issue("127.0.0.1", file="expired", starts=-3 * DAY, ends=-2 * DAY)
    bad = await backends.scripted(tls=server(expired))
    works = await backends.scripted(tls=server(good))
    works.answers(OK, hold=True)
    config = to_tls(authority, bad.address, works.address)
    config["upstreams"]["one"]["pool"] = "off"
    gateway = await start_gateway(config)
    for _ in range(2):  # a body that was begun to be sent could not be sent to another
        client = await open_connection(gateway)
        await client.send(request("/", "Content-Length: 3", "Connection: close", method="POST") + b"abc")
        assert (await client.answer()).status == 200
    scrape = await gateway.scrape()
    name = "gateway_backend_connect_errors_total"
    assert scrape.value(name, upstream="one", backend=bad.address, reason="certificate_expired") == 1


@pytest.mark.either_build
async def test_each_address_has_the_whole_time(
    start_gateway: StartGateway, backends: Backends, authority: Authority, good: Any, open_connection: Open
) -> None:
    async def script(connection: Connection) -> None:
        await connection.read(5)
        await quiet_for(0.7)

    bad = await backends.scripted()
    bad.plays(script)
    slow = await OwnTls.start(good, V13, delay=0.7)
    try:
        config = to_tls(authority, bad.address, slow.address)
        gateway = await start_gateway({**config, "timeouts": {"connect": "1s"}})
        for _ in range(2):
            assert await ask(await open_connection(gateway)) == (200, "ok")
        scrape = await gateway.scrape()
        name = "gateway_backend_connect_errors_total"
        assert scrape.value(name, upstream="one", backend=bad.address, reason="closed_in_handshake") == 1
    finally:
        await slow.close()


@pytest.mark.either_build
async def test_a_client_certificate(
    start_gateway: StartGateway, backends: Backends, authority: Authority, good: Any, open_connection: Open
) -> None:
    shown: list[Any] = []
    backend = await backends.scripted(tls=server(good, client_ca=authority.ca))

    async def script(connection: Connection) -> None:
        shown.append(connection.writer.get_extra_info("peercert")["subject"])
        await serves(backend, connection)

    backend.plays(script)
    own = authority.issue("gateway", client=True)
    gateway = await start_gateway(to_tls(authority, backend.address, **own.section))
    assert await ask(await open_connection(gateway)) == (200, "ok")
    assert shown == [((("commonName", "gateway"),),)]


@pytest.mark.either_build
async def test_what_is_asked_for(
    start_gateway: StartGateway,
    backends: Backends,
    authority: Authority,
    good: Any,
    open_connection: Open,
    tmp_path: Path,
) -> None:
    asked: list[str | None] = []
    context = server(good)
    context.sni_callback = lambda tls, name, context: asked.append(name)
    protocols: list[str | None] = []
    config = to_tls(authority, "127.0.0.1:1")
    config["upstreams"] = {}
    config["routes"] = []
    addresses = {
        "address": {"host": "127.0.0.1"},
        "v6": {"host": "::1"},
        "unix": {"path": str(tmp_path / "backend.sock")},
        "server-name": {"host": "127.0.0.1"},
        "name": {"host": "127.0.0.1"},
    }
    for name, where in addresses.items():
        backend = await backends.scripted(tls=context, **where)

        async def script(connection: Connection, backend: Scripted = backend) -> None:
            protocols.append(connection.writer.get_extra_info("ssl_object").selected_alpn_protocol())
            await serves(backend, connection)

        backend.plays(script)
        tls = {"ca": str(authority.ca)}
        if name in ("unix", "server-name"):
            tls["server_name"] = "localhost"
        address = backend.address if name != "name" else backend.address.replace("127.0.0.1", "localhost")
        config["upstreams"][name] = {"backends": [address], "tls": tls}
        config["routes"].append({"name": name, "match": {"path": f"/{name}"}, "upstream": name})
    gateway = await start_gateway(config)
    for name in addresses:
        assert await ask(await open_connection(gateway), f"/{name}") == (200, "ok"), name
    # RFC 6066 section 3: an address is not a name to ask for.
    assert asked == [None, None, "localhost", "localhost", "localhost"]
    assert protocols == ["http/1.1"] * len(addresses)


# --- the pool ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "event"),
    [
        (V13, "key update"),
        *((version, each) for version in (V12, V13) for each in ("close_notify", "data", "fin", "alert")),
    ],
)
async def test_what_comes_on_an_idle_connection(
    shared: Gateway, good: Any, open_connection: Open, version: Any, event: str
) -> None:
    backend = await own(shared, good, version)
    try:
        client = await open_connection(shared)
        assert await ask(client, PATHS[version]) == (200, "ok")
        assert await ask(client, PATHS[version]) == (200, "ok")
        (link,) = backend.links
        if event == "key update":
            for _ in range(3):
                link.update_key()
        elif event == "close_notify":
            link.end()
        elif event == "data":
            link.say(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON")
        elif event == "alert":
            link.alert(80)
        else:
            link.writer.close()
        if event != "key update":
            await within(link.over.wait(), "the gateway to close its connection")
        assert await ask(client, PATHS[version]) == (200, "ok")
        assert len(backend.links) == (1 if event == "key update" else 2)
    finally:
        await backend.close()


async def test_an_idle_connection_is_closed_with_a_word(
    start_gateway: StartGateway, authority: Authority, good: Any, open_connection: Open
) -> None:
    backend = await OwnTls.start(good, V13)
    try:
        config = to_tls(authority, backend.address)
        config["upstreams"]["one"]["pool"] = {"idle": "100ms"}
        gateway = await start_gateway(config)
        assert await ask(await open_connection(gateway)) == (200, "ok")
        (link,) = backend.links
        await within(link.over.wait(), "the gateway to close its connection")
        assert link.was_notified
    finally:
        await backend.close()


# --- ends -------------------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("notified", [True, False], ids=["close_notify", "truncated"])
async def test_an_answer_that_the_end_of_the_connection_ends(
    shared: Gateway, good: Any, open_connection: Open, version: Any, notified: bool
) -> None:
    backend = await own(shared, good, version, answer=b"HTTP/1.1 200 OK\r\n\r\nsome of it", ends=notified)
    try:
        client = await open_connection(shared)
        await client.send(request(PATHS[version], "Connection: close"))
        assert (await client.head()).status == 200
        if notified:
            assert await client.rest() == b"some of it"
        else:
            with pytest.raises(AssertionError, match="reset"):
                await client.rest()
            await shared.logged(event="http", client=client.name, initiator="backend", cause="fin")
    finally:
        await backend.close()


@pytest.mark.either_build
async def test_a_client_that_leaves_during_the_handshake(
    start_gateway: StartGateway, backends: Backends, authority: Authority, open_connection: Open
) -> None:
    over = asyncio.Event()
    begun = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.read(5)
        begun.set()
        await connection.ends()
        over.set()

    backend = await backends.scripted()
    backend.plays(script)
    gateway = await start_gateway(to_tls(authority, backend.address))
    for data in (request("/"), handshake("/")):
        begun.clear()
        over.clear()
        client = await open_connection(gateway)
        await client.send(data)
        await within(begun.wait(), "a ClientHello")
        client.reset()
        await within(over.wait(), "the gateway to leave the backend")


@pytest.mark.either_build
@VERSIONS
async def test_a_backend_that_stops_in_the_middle_of_the_handshake(
    start_gateway: StartGateway, authority: Authority, good: Any, open_connection: Open, version: Any
) -> None:
    backend = await OwnTls.start(good, version, stops_after=200)
    try:
        gateway = await start_gateway({**to_tls(authority, backend.address), "timeouts": {"connect": "300ms"}})
        (pid,) = await gateway.worker_pids()
        before = sockets_of(pid)
        for _ in range(3):
            client = await open_connection(gateway)
            status, text = await ask(client)
            assert (status, "did not complete the TLS handshake in time" in text) == (504, True)
            await client.close()
        await eventually(lambda: sockets_of(pid) <= before, "the connections to be closed")
    finally:
        await backend.close()


# --- much at once -----------------------------------------------------------------------------------------------------


@VERSIONS
async def test_a_backend_that_reads_slowly(
    start_gateway: StartGateway,
    backends: Backends,
    authority: Authority,
    good: Any,
    open_connection: Open,
    version: Any,
) -> None:
    size = 8_000_000
    got = hashlib.sha256()

    async def script(connection: Connection) -> None:
        await backend.request(connection)
        await quiet_for(0.3)
        for _ in range(size // 100_000):
            got.update(await connection.read(100_000))
        await connection.send(OK)
        await connection.ends()

    backend = await backends.scripted(tls=server(good, version))
    backend.plays(script)
    gateway = await start_gateway(to_tls(authority, backend.address))
    client = await open_connection(gateway)
    body = os.urandom(1000) * (size // 1000)
    await client.send(request("/", f"Content-Length: {size}", method="POST"))
    sending = asyncio.ensure_future(client.send(body))
    answer = await client.answer()
    await sending
    assert answer.status == 200
    assert got.digest() == hashlib.sha256(body).digest()


@VERSIONS
async def test_a_client_that_reads_slowly(
    start_gateway: StartGateway,
    backends: Backends,
    authority: Authority,
    good: Any,
    open_connection: Open,
    version: Any,
) -> None:
    body = os.urandom(1000) * 8000

    async def script(connection: Connection) -> None:
        await backend.request(connection)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await connection.ends()

    backend = await backends.scripted(tls=server(good, version))
    backend.plays(script)
    gateway = await start_gateway(to_tls(authority, backend.address))
    client = await open_connection(gateway)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's transports of sockets have it
    await client.send(request("/"))
    await quiet_for(0.3)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
    assert (await client.answer()).body == body
