"""nginx and ``openssl s_server`` behind the gateway: tunnels, client certificates, renegotiation.

Requests to them are in ``tests/peers/test_tls_backends.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.peers.exercise import http_works, websocket_works
from tests.peers.proxies import UPGRADE, start_nginx
from tests.peers.servers import Servers
from tests.peers.tls.talking import SServer, Talk
from tests.support.certificates import Authority, Files
from tests.support.deadline import eventually
from tests.support.frames import TEXT, frame
from tests.support.gateway import NO_PINGS, Config, Gateway, route
from tests.support.raw import Connection, handshake, request, switching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
SENT, RECEIVED = ">>> TLS 1.3, ", "<<< TLS 1.3, "
KEY_UPDATE = "Handshake [length 0005], KeyUpdate"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Issues the certificates of backends."""
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Files:
    """A backend's certificate."""
    return authority.issue("backend.test", "127.0.0.1", file="backend")


def behind(address: str, authority: Authority, **tls: Any) -> Config:
    """An upstream. :param tls: more of its section"""
    return {"backends": [address], "tls": {"ca": str(authority.ca), "server_name": "backend.test", **tls}}


# --- nginx ------------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_nginx(
    start_gateway: StartGateway,
    backends: Backends,
    servers: Servers,
    open_connection: Open,
    authority: Authority,
    pair: Files,
    tmp_path: Path,
    version: str,
) -> None:
    """With a client certificate that it demands, by an authority of its own, and without it."""
    echo, web = await backends.echo(), await backends.web()
    clients = Authority(tmp_path, "Clients")
    mine = clients.issue(client=True, file="gateway", subject="the gateway")
    nginx = await start_nginx(
        servers,
        tmp_path,
        f"""
        ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}; ssl_protocols TLSv{version};
        ssl_client_certificate {clients.ca}; ssl_verify_client on;
        location / {{ proxy_pass http://{echo.address}; {UPGRADE} }}
        location /web/ {{ proxy_pass http://{web.address}; }}
        location /who {{
            return 200 "$ssl_protocol|$ssl_client_verify|$ssl_client_s_dn|$ssl_server_name|$connection_requests";
        }}
        """,
        listen="ssl",
    )
    gateway = await start_gateway(
        {
            "upstreams": {
                "nginx": behind(nginx, authority, cert=str(mine.cert), key=str(mine.key)),
                "nobody": behind(nginx, authority),
            },
            "routes": [route("nobody", "nobody"), route("all", "nginx", "/")],
        }
    )
    client = await open_connection(gateway)
    for count in range(1, 4):  # on one connection, which is kept
        await client.send(request("/who"))
        answer = await client.answer()
        assert answer.text == f"TLSv{version}|SUCCESS|CN=the gateway|backend.test|{count}"
    await websocket_works(gateway.ws("/chat"))
    await http_works(gateway.http("/web/folder"), web)

    await client.send(request("/nobody/at/all"))
    answer = await client.answer()
    assert answer.status == 400
    assert "No required SSL certificate was sent" in answer.text
    labels = {"side": "backend", "result": "ok", "version": version}
    await gateway.until(lambda now: now.value("gateway_tls_handshakes_total", **labels) >= 2, "handshakes to count")


# --- openssl s_server -------------------------------------------------------------------------------------------------


async def start_behind(start_gateway: StartGateway, address: str, authority: Authority, **tls: Any) -> Gateway:
    """A gateway with one backend."""
    config = {"upstreams": {"one": behind(address, authority, **tls)}, "routes": [route("all", "one", "/")]}
    return await start_gateway({**NO_PINGS, **config})


async def open_tunnel(client: Connection, server: Talk) -> None:
    """The client upgrades, and the test accepts for the backend."""
    await client.send(handshake("/tunnel"))
    await server.prints("GET /tunnel HTTP/1.1")
    await server.prints("Sec-WebSocket-Version: 13")
    await server.type(switching())
    assert (await client.head()).status == 101


async def messages_pass(client: Connection, server: Talk, number: int) -> None:
    """One in each direction; the names tell them apart."""
    for size in (10, 20_000):
        to_client = frame(TEXT, f"to client {number} {'y' * size}".encode())
        await server.type(to_client)
        assert await client.read(len(to_client)) == to_client
        text = f"to backend {number} {'x' * size}."
        await client.send(frame(TEXT, f"{text}\n".encode(), bytes(4)))
        await server.prints(text)


async def test_key_updates_of_the_backend(
    start_gateway: StartGateway,
    open_connection: Open,
    s_server: SServer,
    authority: Authority,
    pair: Files,
    tmp_path: Path,
) -> None:
    """In a tunnel, behind the tickets that come after the handshake."""
    address, server = await s_server(pair, "-tls1_3", "-num_tickets", "5", trace=tmp_path / "trace")
    gateway = await start_behind(start_gateway, address, authority)
    client = await open_connection(gateway)
    await open_tunnel(client, server)
    await messages_pass(client, server, 0)
    assert server.traced(", NewSessionTicket") == 5
    for number in range(1, 4):
        await server.type("K\n")
        await server.traces(RECEIVED + KEY_UPDATE, number)  # before anything else is sent
        await messages_pass(client, server, number)
    await server.type("k\n")
    await server.traces(SENT + KEY_UPDATE, 4)
    await messages_pass(client, server, 4)
    assert server.traced(RECEIVED + KEY_UPDATE) == 3
    await gateway.tunnels(1)


async def test_a_backend_that_asks_for_renegotiation(
    start_gateway: StartGateway,
    open_connection: Open,
    s_server: SServer,
    authority: Authority,
    pair: Files,
    tmp_path: Path,
) -> None:
    """A client may ignore it (RFC 5246 7.4.1.1)."""
    address, server = await s_server(pair, "-tls1_2", trace=tmp_path / "trace")
    gateway = await start_behind(start_gateway, address, authority)
    client = await open_connection(gateway)
    await open_tunnel(client, server)
    await messages_pass(client, server, 0)
    await server.type("r\n")
    await server.traces("HelloRequest")
    await messages_pass(client, server, 1)
    assert server.traced("ClientHello") == 1


@VERSIONS
async def test_a_client_certificate(
    start_gateway: StartGateway,
    open_connection: Open,
    s_server: SServer,
    authority: Authority,
    pair: Files,
    tmp_path: Path,
    version: str,
) -> None:
    """``s_server`` refuses in the handshake whom it does not know; with TLS 1.3 the client learns it afterwards."""
    clients = Authority(tmp_path, "Clients")
    mine = clients.issue(client=True, file="gateway", subject="the gateway")
    only = f"-tls{version.replace('.', '_')}"
    address, server = await s_server(
        pair, only, "-Verify", "1", "-verify_return_error", "-CAfile", clients.ca, trace=tmp_path / "trace"
    )
    gateway = await start_gateway(
        {
            **NO_PINGS,
            "upstreams": {
                "known": behind(address, authority, cert=str(mine.cert), key=str(mine.key)),
                "nobody": behind(address, authority),
            },
            "routes": [route("nobody", "nobody"), route("all", "known", "/")],
        }
    )
    client = await open_connection(gateway)
    await client.send(handshake("/nobody"))
    assert (await client.answer()).status == 502
    client = await open_connection(gateway)
    await open_tunnel(client, server)
    await messages_pass(client, server, 1)
    said = (server.process.stdout, server.process.stderr)
    await eventually(lambda: any("CN = the gateway" in line for to in said for line in to.lines), "the certificate")
