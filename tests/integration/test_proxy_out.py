"""Connections to backends that begin with a PROXY header: whom it names, and that no two clients share one."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.protocol.proxy import v1, v2
from tests.support.certificates import Authority
from tests.support.deadline import DEADLINE_SECONDS, quiet_for, within
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Config, route, to_one
from tests.support.ports import free_port
from tests.support.proxied import ProxyBackend, connect_from
from tests.support.raw import Connection, Head, handshake, request, switching

from .upgrades import upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENT, SERVER = "203.0.113.7", "192.0.2.1"
CLIENT6, SERVER6 = "2001:db8:1::7", "2001:db8:1::1"


@pytest_asyncio.fixture(loop_scope="module")
async def backend() -> AsyncIterator[ProxyBackend]:
    started = await ProxyBackend.start()
    yield started
    await started.close()


def to(*backends: str, version: str = "v2", **keys: Any) -> Config:
    """A configuration with one route to backends that require PROXY headers."""
    upstream = {"backends": list(backends), "proxy_protocol": version, **keys.pop("upstream", {})}
    return {"upstreams": {"one": upstream}, "routes": [route("all", "one", "/")], **keys}


def endpoint(name: str) -> list[Any]:
    """``host:port`` as the backend describes it."""
    host, _, port = name.rpartition(":")
    return [host.strip("[]"), int(port)]


async def asked(client: Connection, data: bytes) -> dict[str, Any]:
    """What the backend says of a plain request."""
    await client.send(data)
    answer = await client.answer()
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_client_and_where_it_connected_to(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend, version: str
) -> None:
    port = free_port()
    listen = [{"address": f"0.0.0.0:{port}"}, {"address": f"[::1]:{port}"}]
    gateway = await start_gateway(to(backend.address, version=version, listen=listen))
    for address in (f"127.0.0.1:{port}", f"127.0.0.2:{port}", f"[::1]:{port}"):
        client = await open_connection(address)
        said = await asked(client, request("/plain", "X-Forwarded-For: 1.2.3.4"))
        assert said == {
            "source": endpoint(client.name),
            "destination": endpoint(address),
            "forwarded": endpoint(client.name)[0],
        }
        tunnel = await open_connection(address)
        await tunnel.send(handshake("/ws"))
        assert (await tunnel.head()).status == 101
        await tunnel.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
        accepted = backend.connections[-1]
        assert [list(accepted.source or ()), list(accepted.destination or ())] == [
            endpoint(tunnel.name),
            endpoint(address),
        ]
    assert all(each.header.startswith(b"PROXY " if version == "v1" else b"\r\n\r\n\0") for each in backend.connections)
    assert (await gateway.scrape()).value("gateway_tunnels") == 3


@pytest.mark.parametrize(("version", "unknown"), [("v1", b"PROXY UNKNOWN\r\n"), ("v2", None)])
async def test_headers_that_came_are_passed_on(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend, version: str, unknown: bytes | None
) -> None:
    """Both addresses, so that a backend sees what the first proxy saw; a client without address stays so."""
    gateway = await start_gateway(
        to(
            backend.address,
            version=version,
            listen=[{"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True}],
            trusted_proxies=["127.0.0.1"],
        )
    )
    for header, source, destination in (
        (v2(CLIENT, SERVER, 1000, 443), [CLIENT, 1000], [SERVER, 443]),
        (v1(CLIENT6, SERVER6, 2000, 443), [CLIENT6, 2000], [SERVER6, 443]),
        (b"PROXY UNKNOWN\r\n", None, None),
    ):
        client = await open_connection(gateway)
        said = await asked(client, header + request("/"))
        assert (said["source"], said["destination"]) == (source, destination)
    assert backend.connections[-1].header == (unknown or bytes.fromhex("0D0A0D0A000D0A515549540A21000000"))


async def test_clients_of_a_unix_socket(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend, tmp_path: Path
) -> None:
    front = f"unix:{tmp_path / 'front.sock'}"
    await start_gateway(to(backend.address, version="v1", listen=[{"address": front}]))
    client = await open_connection(front)
    assert await asked(client, request("/")) == {"source": None, "destination": None, "forwarded": "unix:"}
    assert backend.connections[-1].header == b"PROXY UNKNOWN\r\n"


async def test_an_http_proxy_in_front_is_the_source(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend
) -> None:
    """Requests of different clients come on its connection, and a backend takes the header for all of them."""
    gateway = await start_gateway(to(backend.address, trusted_proxies=["127.0.0.1"]))
    client = await open_connection(gateway)
    for host in ("192.0.2.100", "192.0.2.200"):
        said = await asked(client, request("/", f"X-Forwarded-For: {host}"))
        assert (said["source"], said["forwarded"]) == (endpoint(client.name), f"{host}, 127.0.0.1")
    assert len(backend.connections) == 1


# --- connections are not shared ---------------------------------------------------------------------------------------


async def test_two_clients_never_share_a_connection(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend
) -> None:
    """One after another, so that a pool would give each the previous connection."""
    gateway = await start_gateway(to(backend.address))
    clients = [await open_connection(gateway) for _ in range(5)]
    for number in range(4):
        for client in clients:
            said = await asked(client, request(f"/{number}"))
            assert said["source"] == endpoint(client.name)
    # But each has one of its own, which is used again.
    assert len(backend.connections) == 5
    assert [len(each.requests) for each in backend.connections] == [4] * 5
    uses = {"upstream": "one", "for": "request"}
    await gateway.until(
        lambda scrape: (
            [
                scrape.value("gateway_backend_connections_total", **uses, **{"from": source})
                for source in ("dial", "pool")
            ]
            == [5, 15]
        ),
        "5 connections and 15 uses of them",
    )
    # It goes when its client does.
    first = backend.connections[0]
    assert not first.closed.is_set()
    await clients[0].close()
    await within(first.closed.wait(), "the end of the backend's connection")


async def test_many_clients_in_any_order(start_gateway: StartGateway, backend: ProxyBackend) -> None:
    gateway = await start_gateway(to(backend.address, workers=2))

    async def one(number: int) -> None:
        client = await connect_from(f"127.0.0.{1 + number % 200}", gateway.address)
        for _ in range(5):
            assert (await asked(client, request("/")))["source"] == endpoint(client.name)
        await client.close()

    for start in range(0, 600, 200):
        await asyncio.gather(*(one(number) for number in range(start, start + 200)))
    for accepted in backend.connections:
        assert len({head.value("x-forwarded-for") for head in accepted.requests}) == 1


@pytest.mark.parametrize("pool", ["off", {"idle": "300ms"}], ids=["off", "short"])
async def test_the_pool_says_how_long_one_is_kept(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend, pool: Any
) -> None:
    gateway = await start_gateway(to(backend.address, upstream={"pool": pool}))
    client = await open_connection(gateway)
    for number in range(3):
        assert (await asked(client, request(f"/{number}")))["source"] == endpoint(client.name)
        await within(backend.connections[number].closed.wait(), "the end of the backend's connection")
    assert len(backend.connections) == 3


async def test_an_upgrade_on_the_same_connection_leaves_nothing_behind(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend
) -> None:
    gateway = await start_gateway(to(backend.address))
    client = await open_connection(gateway)
    await asked(client, request("/"))
    await client.send(handshake("/ws"))
    assert (await client.head()).status == 101
    first, second = backend.connections
    assert first.source == second.source == tuple(endpoint(client.name))
    await within(first.closed.wait(), "the end of the connection for plain requests")
    await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))


@pytest.mark.parametrize("on_first", [False, True], ids=["turned on", "turned off"])
async def test_a_reload_takes_no_connection_of_the_other_kind(
    start_gateway: StartGateway, open_connection: Open, backends: Backends, backend: ProxyBackend, on_first: bool
) -> None:
    plain = await backends.web()
    without = to_one(plain.address)
    gateway = await start_gateway(to(backend.address) if on_first else without)
    clients = [await open_connection(gateway) for _ in range(2)]
    for on in (on_first, not on_first, on_first):
        gateway.write(to(backend.address) if on else without)
        await gateway.reload()
        for client in clients:
            await client.send(request("/"))
            answer = await client.answer()
            assert answer.status == 200
            if on:
                assert json.loads(answer.body)["source"] == endpoint(client.name)


async def test_the_same_backend_with_and_without(
    start_gateway: StartGateway, open_connection: Open, backends: Backends
) -> None:
    """A connection without a header is not used where one is wanted, nor one of version 1 for version 2."""
    scripted = await backends.scripted()
    starts: list[bytes] = []

    async def script(connection: Connection) -> None:
        starts.append(await connection.read(6))
        head = starts[-1] + (await connection.head()).raw if starts[-1] == b"PROXY " else starts[-1]
        while b"\r\n\r\n" not in head.replace(b"\r\n\r\n\0", b""):
            head += (await connection.head()).raw
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        while await connection.reader.read(65536):
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    scripted.plays(script)
    gateway = await start_gateway(to_one(scripted.address))
    client = await open_connection(gateway)
    for config, expected in (
        (to_one(scripted.address), b"GET / "),
        (to(scripted.address, version="v1"), b"PROXY "),
        (to_one(scripted.address), None),
        (to(scripted.address, version="v2"), b"\r\n\r\n\0\r"),
    ):
        gateway.write(config)
        await gateway.reload()
        for _ in range(2):
            await client.send(request("/"))
            assert (await client.answer()).body == b"ok"
        assert expected is None or starts[-1] == expected
    assert starts == [b"GET / ", b"PROXY ", b"\r\n\r\n\0\r"]


# --- retries, moves ---------------------------------------------------------------------------------------------------


async def test_a_retry_on_another_backend_begins_with_the_header(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    gateway = await start_gateway(to(nobody, backend.address, upstream={"balance": "round_robin"}))
    for _ in range(3):
        client, tunnel = await open_connection(gateway), await open_connection(gateway)
        assert (await asked(client, request("/")))["source"] == endpoint(client.name)
        await tunnel.send(handshake("/ws"))
        assert (await tunnel.head()).status == 101
        assert backend.connections[-1].source == tuple(endpoint(tunnel.name))
    assert (await gateway.scrape()).value("gateway_backend_connect_errors_total", backend=nobody) >= 2


async def test_one_that_the_backend_closed_is_dialled_again(
    start_gateway: StartGateway, open_connection: Open, backends: Backends
) -> None:
    """The second request meets a connection that ends before its answer, and goes over a new one, header first."""
    scripted = await backends.scripted()
    sources: list[str] = []

    async def script(connection: Connection) -> None:
        sources.append((await within(connection.reader.readuntil(b"\r\n"), "a header")).decode().split()[2])
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await connection.reader.read(1)  # closed without an answer

    scripted.plays(script)
    gateway = await start_gateway(to(scripted.address, version="v1"))
    client = await open_connection(gateway)
    for _ in range(4):
        await client.send(request("/"))
        assert (await client.answer()).body == b"ok"
    assert sources == ["127.0.0.1"] * 4


async def test_what_may_not_be_repeated_takes_no_old_connection(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend
) -> None:
    gateway = await start_gateway(to(backend.address))
    client = await open_connection(gateway)
    post = request("/", "Content-Length: 1", method="POST") + b"x"
    await asked(client, post)
    await asked(client, post)
    assert len(backend.connections) == 1
    await quiet_for(1.1)  # the age beyond which a pooled connection is not used for such a request
    await asked(client, post)
    assert len(backend.connections) == 2
    await within(backend.connections[0].closed.wait(), "the end of the first")


async def test_a_large_head_and_a_slow_backend(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend
) -> None:
    gateway = await start_gateway(to(backend.address, heads={"max_size": "1MiB"}))
    client = await open_connection(gateway)
    said = await asked(client, request("/", f"X-Large: {'x' * 900_000}"))
    assert said["source"] == endpoint(client.name)
    assert backend.connections[-1].requests[-1].value("x-large") == "x" * 900_000


async def test_idle_connections_move_in_an_upgrade(
    start_gateway: StartGateway, open_connection: Open, backend: ProxyBackend
) -> None:
    """The backend's connection does not, but its client's does, with the addresses for the next header."""
    gateway = await start_gateway(
        to(
            backend.address,
            listen=[{"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True}],
            trusted_proxies=["127.0.0.1"],
        )
    )
    client, tunnel = await open_connection(gateway), await open_connection(gateway)
    before = await asked(client, v2(CLIENT6, SERVER6, 3000, 443) + request("/"))
    await tunnel.send(v1(CLIENT, SERVER) + handshake("/ws"))
    assert (await tunnel.head()).status == 101
    await upgrade(gateway)
    await within(backend.connections[0].closed.wait(), "the end of the old worker's connection")
    assert await asked(client, request("/")) == before
    assert before["source"] == [CLIENT6, 3000]
    await tunnel.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    assert [each.source for each in backend.connections] == [(CLIENT6, 3000), (CLIENT, 51000), (CLIENT6, 3000)]


async def test_a_login_is_not_lost_to_a_header(
    start_gateway: StartGateway, open_connection: Open, backends: Backends, backend: ProxyBackend
) -> None:
    """A backend knows a client by its connection (NTLM): a request to another upstream must not take its place."""
    scripted = await backends.scripted()
    connections = 0

    async def script(connection: Connection) -> None:
        nonlocal connections
        connections += 1
        while True:
            head: Head = await connection.head()
            login = "WWW-Authenticate: NTLM x\r\n" if head.target == "/login/1" else ""
            await connection.send(f"HTTP/1.1 200 OK\r\n{login}Content-Length: 2\r\n\r\nok".encode())
            if head.target == "/login/2":
                return

    scripted.plays(script)
    gateway = await start_gateway(
        {
            "upstreams": {
                "login": {"backends": [scripted.address]},
                "one": {"backends": [backend.address], "proxy_protocol": "v2"},
            },
            "routes": [route("login", "login"), route("all", "one", "/")],
        }
    )
    client = await open_connection(gateway)
    for path in ("/login/1", "/x", "/x", "/login/2"):
        await client.send(request(path))
        assert (await client.answer()).status == 200
    assert connections == 1
    assert len(backend.connections) == 2


async def test_the_header_precedes_tls(start_gateway: StartGateway, open_connection: Open, tmp_path: Path) -> None:
    """And it is not repeated inside."""
    authority = Authority(tmp_path)
    files = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(DEADLINE_SECONDS)
    heads: list[tuple[bytes, bytes]] = []

    def serve() -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            connection.settimeout(DEADLINE_SECONDS)
            header = b""
            while not header.endswith(b"\r\n"):
                header += connection.recv(1)
            with context.wrap_socket(connection, server_side=True) as sealed:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += sealed.recv(1)
                heads.append((header, head))
                is_upgrade = b"\r\nUpgrade: " in head
                sealed.sendall(switching() if is_upgrade else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                sealed.recv(1)

    address = f"localhost:{listening.getsockname()[1]}"
    gateway = await start_gateway(to(address, version="v1", upstream={"tls": {"ca": str(authority.ca)}}))
    served = asyncio.create_task(asyncio.to_thread(serve))
    client = await open_connection(gateway)
    await client.send(request("/"))
    assert (await client.answer()).body == b"ok"
    await client.close()
    tunnel = await open_connection(gateway)
    await tunnel.send(handshake("/"))
    assert (await tunnel.head()).status == 101
    await tunnel.close()
    await within(served, "the backend's end")
    listening.close()
    for (header, head), name in zip(heads, (client.name, tunnel.name), strict=True):
        host, port = endpoint(name)
        assert header.startswith(f"PROXY TCP4 {host} 127.0.0.1 {port} ".encode())
        assert head.startswith(b"GET / HTTP/1.1\r\n")
