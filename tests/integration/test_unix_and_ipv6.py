"""Listeners and backends on unix sockets and on IPv6."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import command, route, to_one
from tests.support.netns import namespace
from tests.support.ports import free_port
from tests.support.raw import handshake, request

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_unix_sockets_on_every_side(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    echo = await backends.echo(path=str(tmp_path / "echo.sock"))
    web = await backends.web(path=str(tmp_path / "web.sock"))
    front, admin = tmp_path / "front.sock", tmp_path / "admin.sock"
    gateway = await start_gateway(
        {
            "workers": 2,
            "timeouts": {"close": "200ms"},
            "drain": {"period": "200ms"},
            "listen": [{"address": f"unix:{front}"}, {"address": f"127.0.0.1:{free_port()}"}],
            "admin": {"address": f"unix:{admin}"},
            "upstreams": {"echo": {"backends": [echo.address]}, "web": {"backends": [web.address]}},
            "routes": [route("web", "web"), route("all", "echo", "/")],
        }
    )
    assert stat.S_ISSOCK(os.stat(front).st_mode)
    for address in (f"unix:{front}", gateway.config["listen"][1]["address"]):
        client = await open_connection(address)
        await client.send(handshake("/unix"))
        assert (await client.head()).status == 101
        await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
        plain = await open_connection(address)
        await plain.send(request("/web/x"))
        answer = await plain.answer()
        assert answer.status == 200
        fields = dict(json.loads(answer.body)["headers"])
        assert fields["X-Forwarded-For"] == ("unix:" if address.startswith("unix:") else "127.0.0.1")
        assert fields["Host"] == "gateway.test"
    record = await gateway.logged(event="handshake", client="unix")
    assert (record["result"], record["backend"]) == ("upgraded", echo.address)
    status, stdout, stderr = await command("tunnels", "-c", gateway.file, "--json")
    assert status == 0, stderr
    assert json.loads(stdout)["total"] == 2
    gateway.term()
    await gateway.exits(0)
    assert not front.exists()
    assert not admin.exists()


async def test_a_unix_socket_that_was_left_behind_is_replaced(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    front = tmp_path / "front.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(front))
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, listen=[{"address": f"unix:{front}"}]))
    client = await open_connection(gateway.address)
    await client.send(handshake("/"))
    assert (await client.head()).status == 101


@pytest.mark.either_build
@pytest.mark.parametrize("what", ["file", "gateway"])
async def test_a_path_that_is_taken_is_refused(start_gateway: StartGateway, tmp_path: Path, what: str) -> None:
    front = tmp_path / "front.sock"
    listen = [{"address": f"unix:{front}"}]
    if what == "file":
        front.write_text("precious")
    else:
        await start_gateway(to_one("127.0.0.1:1", listen=listen))
    second = await start_gateway(to_one("127.0.0.1:1", listen=listen), ready=False)
    await second.exits(1)
    assert str(front) in await second.stderr.containing("cannot listen on")
    assert front.exists()


async def test_ipv6_on_every_side(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo(host="::1")
    scripted = await backends.scripted(host="::1")
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    port = free_port()
    gateway = await start_gateway(
        {
            "listen": [{"address": f"[::]:{port}"}, {"address": f"0.0.0.0:{port}"}],
            "admin": {"address": f"[::1]:{free_port('::1')}"},
            "upstreams": {"echo": {"backends": [echo.address]}, "scripted": {"backends": [scripted.address]}},
            "routes": [route("plain", "scripted"), route("all", "echo", "/")],
        }
    )
    for address in (f"[::1]:{port}", f"127.0.0.1:{port}"):
        client = await open_connection(address)
        await client.send(handshake("/", host=f"[::1]:{port}"))
        assert (await client.head()).status == 101
        await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
        record = await gateway.logged(event="handshake", client=client.name)
        assert (record["backend"], record["host"]) == (echo.address, "[::1]")
        plain = await open_connection(address)
        await plain.send(request("/plain/x"))
        assert (await plain.answer()).body == b"ok"
        forwarded = (await scripted.next_head()).value("X-Forwarded-For")
        assert forwarded == ("::1" if address.startswith("[") else "127.0.0.1")
    scrape = await gateway.scrape()
    assert scrape.value("gateway_tunnels", backend=echo.address) == 2


async def test_a_backend_on_one_link(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    """An address of one link has to be dialled through an interface (RFC 4007); there may be none of that name."""
    with namespace("fe80::5/64") as here:
        sock = here.socket(socket.AF_INET6)
        with here.entered():
            sock.bind(("fe80::5", 0, 0, socket.if_nametoindex("lo")))
        sock.listen()
        echo = await backends.echo(host="fe80::5%lo", sock=sock)
        front, admin = tmp_path / "front.sock", tmp_path / "admin.sock"
        elsewhere = echo.address.replace("%lo", "%nowhere")
        gateway = await start_gateway(
            {
                "listen": [{"address": f"unix:{front}"}],
                "admin": {"address": f"unix:{admin}"},
                "upstreams": {"link": {"backends": [echo.address]}, "nowhere": {"backends": [elsewhere]}},
                "routes": [route("link", "link"), route("nowhere", "nowhere")],
            },
            namespace=here,
        )
        client = await open_connection(gateway.address)
        await client.send(handshake("/link"))
        assert (await client.head()).status == 101
        await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
        client = await open_connection(gateway.address)
        await client.send(handshake("/nowhere"))
        assert (await client.head()).status == 502
        await gateway.stderr.containing(f"backend {elsewhere}: this machine has no such network interface")


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_trusted_proxy_tells_who_the_client_is(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, trusted: bool
) -> None:
    scripted = await backends.scripted()
    scripted.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    gateway = await start_gateway(to_one(scripted.address, trusted_proxies=["127.0.0.0/8"] if trusted else []))
    client = await open_connection(gateway)
    await client.send(
        request(
            "/",
            "X-Forwarded-For: 203.0.113.7, 2001:db8::9",
            "X-Forwarded-For: 127.0.0.5",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: public.example",
            "X-Request-Id: from-the-proxy",
        )
    )
    assert (await client.answer()).body == b"ok"
    head = await scripted.next_head()
    record = await gateway.logged(event="http")
    if trusted:
        assert head.value("X-Forwarded-For") == "203.0.113.7, 2001:db8::9, 127.0.0.5, 127.0.0.1"
        assert head.value("X-Forwarded-Proto") == "https"
        assert head.value("X-Forwarded-Host") == "public.example"
        assert head.value("X-Request-Id") == record["request_id"] == "from-the-proxy"
        assert record["client"] == "2001:db8::9"
    else:
        assert head.value("X-Forwarded-For") == "127.0.0.1"
        assert head.value("X-Forwarded-Proto") == "http"
        assert head.value("X-Forwarded-Host") == "gateway.test"
        assert head.value("X-Request-Id") == record["request_id"] != "from-the-proxy"
        assert record["client"] == client.name


async def test_many_clients_of_a_unix_socket_are_spread_over_workers(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    echo = await backends.echo()
    front = f"unix:{tmp_path / 'front.sock'}"
    gateway = await start_gateway(to_one(echo.address, workers=2, listen=[{"address": front}]))
    clients = await asyncio.gather(*(open_connection(front) for _ in range(100)))
    for client in clients:
        client.writer.write(handshake("/"))
    for client in clients:
        assert (await client.head()).status == 101
    assert (await gateway.scrape()).value("gateway_tunnels") == 100
