"""PROXY headers of HAProxy toward the gateway, and of the gateway toward HAProxy and nginx."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Backends, StartGateway
from tests.peers.exercise import http_works, websocket_works
from tests.peers.servers import Servers, program
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Gateway, route
from tests.support.ports import free_port
from tests.support.proxied import connect_from
from tests.support.raw import Connection, handshake, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE, CLIENT_HOST = "127.0.0.1", "127.0.0.5"
SEEN = "%[src]:%[src_port] %[dst]:%[dst_port]"
"""What HAProxy takes for the client, and for where it has connected to."""

SENDING = {
    "v1": "send-proxy",
    "v2": "send-proxy-v2",
    "v2 with vectors": "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority",
}


async def start_haproxy(servers: Servers, directory: Path, sections: str, accepts: str) -> None:
    """Run HAProxy with these sections. :param accepts: an address that it has"""
    file = directory / f"haproxy-{accepts.rpartition(':')[2]}.cfg"
    file.write_text(
        "global\n    maxconn 256\n"
        "defaults\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n    timeout tunnel 1h\n"
        f"{sections}"
    )
    await servers.start(program("haproxy"), "-db", "-f", file, accepts=accepts)


async def gateway_to(
    start_gateway: StartGateway, backend: str, host: str = HERE, chat: str | None = None, **upstream: object
) -> Gateway:
    """A gateway that takes PROXY headers on its only listener. :param chat: the backend for ``/chat``, if another"""
    address = f"[{host}]:{free_port(host)}" if ":" in host else f"{host}:{free_port(host)}"
    return await start_gateway(
        {
            "listen": [{"address": address, "proxy_protocol": True}],
            "trusted_proxies": [host],
            "upstreams": {"one": {"backends": [backend], **upstream}, "chat": {"backends": [chat or backend]}},
            "routes": [route("chat", "chat"), route("all", "one", "/")],
        }
    )


async def answered(client: Connection, path: str) -> str:
    """The body of the answer to a plain request."""
    await client.send(request(path))
    answer = await client.answer()
    assert answer.status == 200, answer
    return answer.text


# --- toward the gateway -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sending", SENDING.values(), ids=SENDING)
@pytest.mark.parametrize(("host", "client_host"), [(HERE, CLIENT_HOST), ("::1", "::1")], ids=["IPv4", "IPv6"])
async def test_haproxy_names_the_client(
    start_gateway: StartGateway,
    backends: Backends,
    servers: Servers,
    tmp_path: Path,
    sending: str,
    host: str,
    client_host: str,
) -> None:
    """In log, API and headers; and tunnels and streams work through it."""
    echo, web = await backends.echo(), await backends.web()
    gateway = await gateway_to(start_gateway, web.address, host, echo.address)
    port = free_port(host)
    haproxy = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    await start_haproxy(
        servers,
        tmp_path,
        f"listen l\n    mode tcp\n    unique-id-format %ci-%cp\n    bind {haproxy}\n"
        f"    server gateway {gateway.address} {sending}\n",
        haproxy,
    )
    plain, tunnel = [await connect_from(client_host, haproxy) for _ in range(2)]
    assert dict(json.loads(await answered(plain, "/plain"))["headers"])["X-Forwarded-For"] == client_host
    assert (await gateway.logged(event="http", path="/plain"))["client"] == plain.name
    await tunnel.send(handshake("/a/ws"))
    assert (await tunnel.head()).status == 101
    await tunnel.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    (found,) = (await gateway.api("tunnels"))["tunnels"]
    assert found["client_address"] == tunnel.name
    for client in (plain, tunnel):
        await client.close()
    assert (await gateway.logged(event="tunnel_end"))["client"] == tunnel.name
    if host == HERE:
        await websocket_works(f"ws://{haproxy}/chat")
        await http_works(f"http://{haproxy}/folder", web)


async def test_the_same_bytes_from_elsewhere_are_a_400(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path
) -> None:
    """HAProxy that connects from an address that is not in ``trusted_proxies``."""
    web = await backends.web()
    gateway = await gateway_to(start_gateway, web.address)
    for sending in SENDING.values():
        haproxy = f"{HERE}:{free_port()}"
        await start_haproxy(
            servers,
            tmp_path,
            f"listen l\n    mode tcp\n    bind {haproxy}\n"
            f"    server gateway {gateway.address} source 127.0.0.9 {sending}\n",
            haproxy,
        )
        client = await connect_from(CLIENT_HOST, haproxy)
        await client.send(request("/"))
        answer = await client.answer()
        assert answer.status == 400
        assert "PROXY header" in answer.text
        await client.close()
    (record, *_) = [r for r in gateway.log_records(status=400) if r["client"].startswith("127.0.0.9:")]
    assert record["result"] == "bad_request"


async def test_haproxy_that_sends_no_header_is_refused(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path
) -> None:
    web = await backends.web()
    gateway = await gateway_to(start_gateway, web.address)
    haproxy = f"{HERE}:{free_port()}"
    await start_haproxy(
        servers,
        tmp_path,
        f"listen l\n    mode tcp\n    bind {haproxy}\n    server gateway {gateway.address}\n",
        haproxy,
    )
    client = await connect_from(CLIENT_HOST, haproxy)
    await client.send(request("/"))
    answer = await client.answer()
    assert (answer.status, "no PROXY header" in answer.text) == (400, True)
    await client.close()


@pytest.mark.parametrize("sending", ["send-proxy", "send-proxy-v2"])
async def test_health_checks_of_haproxy(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path, sending: str
) -> None:
    """With LOCAL, or its own addresses in version 1, the proxy is the client."""
    web = await backends.web()
    gateway = await gateway_to(start_gateway, web.address)
    haproxy = f"{HERE}:{free_port()}"
    await start_haproxy(
        servers,
        tmp_path,
        f"listen l\n    mode http\n    bind {haproxy}\n    option httpchk\n"
        "    http-check send meth GET uri /health ver HTTP/1.1 hdr Host health\n"
        f"    server gateway {gateway.address} {sending} check check-send-proxy inter 100ms\n",
        haproxy,
    )
    record = await gateway.logged(event="http", path="/health")
    assert (record["client"].rpartition(":")[0], record["status"]) == (HERE, 200)
    client = await connect_from(CLIENT_HOST, haproxy)
    assert dict(json.loads(await answered(client, "/plain"))["headers"])["X-Forwarded-For"] == CLIENT_HOST
    await client.close()


# --- from the gateway -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_haproxy_behind(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path, version: str
) -> None:
    echo, web = await backends.echo(), await backends.web()
    haproxy = f"{HERE}:{free_port()}"
    await start_haproxy(
        servers,
        tmp_path,
        f"frontend f\n    mode http\n    bind {haproxy} accept-proxy\n"
        f'    http-request return status 200 content-type text/plain lf-string "{SEEN}" if {{ path /who }}\n'
        "    use_backend web if { path_beg /web/ }\n    default_backend echo\n"
        f"backend web\n    mode http\n    server one {web.address}\n"
        f"backend echo\n    mode http\n    server one {echo.address}\n",
        haproxy,
    )
    gateway = await start_gateway(
        {
            "upstreams": {"one": {"backends": [haproxy], "proxy_protocol": version}},
            "routes": [route("all", "one", "/")],
        }
    )
    for host in (CLIENT_HOST, "127.0.0.6"):
        client = await connect_from(host, gateway.address)
        for _ in range(3):
            assert await answered(client, "/who") == f"{client.name} {gateway.address}"
        await client.close()
    await websocket_works(gateway.ws("/chat"))
    await http_works(gateway.http("/web/folder"), web)


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_nginx_behind(start_gateway: StartGateway, servers: Servers, tmp_path: Path, version: str) -> None:
    nginx = f"{HERE}:{free_port()}"
    (tmp_path / "nginx.conf").write_text(
        f"""
        daemon off; worker_processes 1; pid {tmp_path}/nginx.pid; error_log stderr;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;
            fastcgi_temp_path {tmp_path}/fcgi; uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi;
            server {{
                listen {nginx} proxy_protocol;
                set_real_ip_from {HERE}; real_ip_header proxy_protocol;
                set $to $proxy_protocol_server_addr:$proxy_protocol_server_port;
                location / {{ return 200 "$remote_addr:$proxy_protocol_port $to"; }}
            }}
        }}
        """
    )
    await servers.start(program("nginx"), "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", "stderr", accepts=nginx)
    gateway = await start_gateway(
        {
            "upstreams": {"one": {"backends": [nginx], "proxy_protocol": version}},
            "routes": [route("all", "one", "/")],
        }
    )
    clients = [await connect_from(host, gateway.address) for host in (CLIENT_HOST, "127.0.0.6")]
    for _ in range(3):
        for client in clients:
            assert await answered(client, "/") == f"{client.name} {gateway.address}"
    for client in clients:
        await client.close()


async def test_from_haproxy_to_haproxy(start_gateway: StartGateway, servers: Servers, tmp_path: Path) -> None:
    """What the first proxy saw is what the last one hears: both addresses, across a change of version."""
    front, behind = (f"{HERE}:{free_port()}" for _ in range(2))
    await start_haproxy(
        servers,
        tmp_path,
        f"frontend f\n    mode http\n    bind {behind} accept-proxy\n"
        f'    http-request return status 200 content-type text/plain lf-string "{SEEN}"\n',
        behind,
    )
    gateway = await gateway_to(start_gateway, behind, proxy_protocol="v1")
    await start_haproxy(
        servers,
        tmp_path,
        f"listen l\n    mode tcp\n    bind {front}\n    server gateway {gateway.address} send-proxy-v2\n",
        front,
    )
    client = await connect_from(CLIENT_HOST, front)
    assert await answered(client, "/") == f"{client.name} {front}"
    await client.close()
