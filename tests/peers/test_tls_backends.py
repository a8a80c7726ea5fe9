"""Backends with TLS that are not Python's: nginx, and OpenSSL's own server with what Python's ``ssl`` cannot do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.peers.exercise import websocket_works
from tests.peers.proxies import UPGRADE, start_nginx
from tests.peers.servers import Servers, program
from tests.support.certificates import Authority, Files
from tests.support.deadline import within
from tests.support.gateway import Config, route
from tests.support.ports import free_port
from tests.support.raw import request

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Files:
    return authority.issue("localhost", "127.0.0.1", file="backend")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("kind", ["p256", "rsa"])
async def test_nginx_behind(
    start_gateway: StartGateway,
    backends: Backends,
    servers: Servers,
    authority: Authority,
    open_connection: Open,
    tmp_path: Path,
    version: str,
    kind: str,
) -> None:
    """It wants a certificate, and closes connections that are idle."""
    files = authority.issue("127.0.0.1", kind=kind, file=f"nginx-{kind}")
    echo, web = await backends.echo(), await backends.web()
    nginx = await start_nginx(
        servers,
        tmp_path,
        f"ssl_certificate {files.cert}; ssl_certificate_key {files.key}; ssl_protocols {version};"
        f" ssl_verify_client on; ssl_client_certificate {authority.ca}; keepalive_timeout 2s; ssl_buffer_size 4k;"
        f" location /ws {{ proxy_pass http://{echo.address}; {UPGRADE} }}"
        f" location / {{ proxy_pass http://{web.address}; }}",
        listen="ssl",
    )
    own = authority.issue("gateway", client=True)
    gateway = await start_gateway(
        {
            "upstreams": {"nginx": {"backends": [nginx], "tls": {"ca": str(authority.ca), **own.section}}},
            "routes": [route("all", "nginx", "/")],
        }
    )
    await websocket_works(gateway.ws("/ws"))
    client = await open_connection(gateway)
    for _ in range(3):
        await client.send(request("/x"))
        assert json.loads((await client.answer()).text)["target"] == "/x"
    body = os.urandom(1000) * 2000
    await client.send(request("/x/upload", f"Content-Length: {len(body)}", method="POST") + body)
    assert json.loads((await client.answer()).text)["sha256"] == hashlib.sha256(body).hexdigest()
    await client.send(request("/x/download?size=3000000"))
    assert (await client.answer()).body == (bytes(range(256)) * 256 * 46)[:3_000_000]
    scrape = await gateway.until(
        lambda scrape: scrape.value("gateway_backend_connections_idle", upstream="nginx", backend=nginx) == 0,
        "nginx to close its idle connections",
    )
    assert scrape.value("gateway_backend_connections_total", **{"for": "request", "from": "pool"}) >= 2
    await client.send(request("/x"))
    assert (await client.answer()).status == 200


def to_openssl(address: str, authority: Authority) -> Config:
    return {
        "upstreams": {"one": {"backends": [address], "tls": {"ca": str(authority.ca)}}},
        "routes": [route("all", "one", "/")],
    }


@pytest.mark.parametrize(
    "options",
    [
        ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"),
        ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_3", "-groups", "P-384"),  # which takes a HelloRetryRequest
        ("-tls1_3", "-groups", "X25519", "-num_tickets", "20"),
        ("-tls1_3", "-record_padding", "512"),
        ("-tls1_2", "-groups", "P-256"),
        ("-tls1_2", "-no_ticket", "-serverpref"),
    ],
    ids=" ".join,
)
async def test_openssl(
    start_gateway: StartGateway,
    servers: Servers,
    authority: Authority,
    pair: Files,
    open_connection: Open,
    options: tuple[str, ...],
) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = (program("openssl"), "s_server", "-accept", address, "-cert", pair.cert, "-key", pair.key, "-www")
    await servers.start(*command, *options, accepts=address)
    gateway = await start_gateway(to_openssl(address, authority))
    for _ in range(2):
        client = await open_connection(gateway)
        await client.send(request("/", "Connection: close"))
        answer = await client.answer()
        assert answer.status == 200
        assert "Ciphers supported in s_server binary" in answer.text
        if "-ciphersuites" in options:
            assert f"Cipher    : {options[-1]}" in answer.text


async def test_key_updates(
    start_gateway: StartGateway, authority: Authority, pair: Files, open_connection: Open
) -> None:
    """From the backend, with and without asking for one in return: while the connection is idle, and in an answer."""
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        *(program("openssl"), "s_server", "-accept", address, "-tls1_3", "-cert", str(pair.cert)),
        *("-key", str(pair.key), "-naccept", "1"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def says(data: bytes) -> None:
        stdin.write(data)
        await stdin.drain()
        await asyncio.sleep(0.1)  # it takes what it reads at a time for one command, or for data

    try:
        assert await within(stdout.readuntil(b"ACCEPT\n"), "s_server to listen")
        gateway = await start_gateway(to_openssl(address, authority))
        client = await open_connection(gateway)
        for number in range(4):
            await client.send(request(f"/{number}"))
            await within(stdout.readuntil(b"GET /%d HTTP/1.1" % number), "the request")
            await within(stdout.readuntil(b"\r\n\r\n"), "the end of the request")
            await says(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
            await says(b"K\n" if number % 2 else b"k\n")
            await says(b"def")
            assert (await client.answer()).body == b"abcdef"
            for _ in range(3):
                await says(b"k\n" if number % 2 else b"K\n")
        scrape = await gateway.scrape()
        assert scrape.value("gateway_tls_handshakes_total", side="backend", result="ok", version="1.3") == 1
    finally:
        process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # asyncio leaves its pipes open otherwise
