"""The TLS of Python, Node, curl and Java, over https and wss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.peers.exercise import http_works, websocket_works
from tests.peers.servers import Servers, java_program, node_script, program
from tests.peers.tls.dribble import Dribble
from tests.peers.tls.site import NAME, TLS12_SUITES, TLS13_SUITES, Site
from tests.support.deadline import SCALE
from tests.support.process import run
from tests.support.raw import KEY

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
SUITES = [("1.3", suite) for suite in TLS13_SUITES] + [("1.2", suite) for suite in TLS12_SUITES.values()]


# --- Python -----------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_python(site: Site, version: str) -> None:
    """websockets and aiohttp."""
    before = await site.handshakes(version)
    context = site.trusting(version)
    await websocket_works(site.wss(), context)
    await http_works(site.https(f"/{version}"), site.web, context)
    await site.handshakes(version, before + 1)


# --- Node -------------------------------------------------------------------------------------------------------------


async def node(ca: Path, port: str, version: str, size: int) -> dict[str, Any]:
    """Run the client; what it found."""
    command = (*node_script("tls_client.js"), ca, f"{NAME}:{port}", f"TLSv{version}", str(size))
    status, stdout, stderr = await run(command, seconds=30 * SCALE)
    assert status == 0, stdout + stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


def all_well(version: str) -> dict[str, Any]:
    """What the client finds if nothing is wrong."""
    request = {"same": True, "version": f"TLSv{version}", "alpn": "http/1.1"}
    return {
        "first": {**request, "resumed": False},
        "second": {**request, "resumed": True},
        "websocket": {"code": 4000, "pong": "are you there", "same": True},
    }


@VERSIONS
async def test_node(site: Site, version: str) -> None:
    assert await node(site.ca, site.port, version, 3_000_000) == all_well(version)
    record = await site.gateway.logged(event="tunnel_end", path="/ws", client_close_code=4000)
    assert (record["initiator"], record["cause"]) == ("client", "close_frame")


@VERSIONS
async def test_node_in_single_bytes(site: Site, dribble: Dribble, version: str) -> None:
    assert await node(site.ca, dribble.port, version, 1000) == all_well(version)


# --- curl -------------------------------------------------------------------------------------------------------------


def curl(site: Site, *options: str | Path) -> tuple[str | Path, ...]:
    """A command that says on stderr what it does."""
    return program("curl"), "--verbose", "--no-progress-meter", "--cacert", site.ca, *options


@pytest.mark.parametrize(("version", "suite"), SUITES)
async def test_curl(site: Site, tmp_path: Path, version: str, suite: str) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"x" * 300_000)
    status, stdout, stderr = await run(
        curl(
            site,
            *("--tlsv1.3", "--tls13-ciphers", suite)
            if version == "1.3"
            else ("--tlsv1.2", "--tls-max", "1.2", "--ciphers", suite),
            *("--data-binary", f"@{file}", site.https("/a/upload")),
        )
    )
    assert status == 0, stderr
    assert json.loads(stdout)["size"] == 300_000
    assert f"SSL connection using TLSv{version} / {suite}" in stderr
    assert "ALPN: server accepted http/1.1" in stderr
    assert "SSL certificate verify ok" in stderr


@VERSIONS
async def test_curl_resumes(site: Site, version: str) -> None:
    urls = [site.https(f"/curl/{number}") for number in range(3)]
    only = ("--tlsv1.3",) if version == "1.3" else ("--tlsv1.2", "--tls-max", "1.2")
    status, stdout, stderr = await run(curl(site, *only, "--header", "Connection: close", *urls))
    assert status == 0, stderr
    assert stdout.count('"method": "GET"') == 3
    assert stderr.replace("re-using", "reusing").count("SSL reusing session") == 2


@VERSIONS
async def test_curl_upgrades(servers: Servers, site: Site, version: str) -> None:
    """A handshake by hand, as people try their servers."""
    only = ("--tlsv1.3",) if version == "1.3" else ("--tlsv1.2", "--tls-max", "1.2")
    fields = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    )
    headers = [part for field in fields for part in ("--header", field)]
    client = await servers.start(*curl(site, *only, "--http1.1", "--no-buffer", *headers, site.https("/ws/curl")))
    await client.stderr.containing("HTTP/1.1 101 Switching Protocols")
    await site.gateway.tunnels(1)
    await client.end()
    await site.gateway.tunnels(0)
    record = await site.gateway.logged(event="tunnel_end", path="/ws/curl")
    assert (record["initiator"], record["client_frames"]) == ("client", 0)


async def test_curl_refuses_what_it_does_not_trust(site: Site) -> None:
    status, _, stderr = await run((program("curl"), "--no-progress-meter", site.https("/")))
    assert status == 60, stderr
    await site.gateway.logged(event="tls_handshake", result="rejected_by_peer", server_name=NAME)


# --- Java -------------------------------------------------------------------------------------------------------------


async def test_java(site: Site, tmp_path: Path) -> None:
    """Requests, downloads, WebSockets and resumption. Its KeyUpdates come in the middle of data: its limit for the use
    of a key is set so low that each of these makes some, in both directions."""
    limits = tmp_path / "limits"
    limits.write_text("jdk.tls.keyLimits=AES/GCM/NoPadding KeyUpdate 2^18, ChaCha20-Poly1305 KeyUpdate 2^18\n")
    pairs = [f"TLSv1.3:{suite}" for suite in TLS13_SUITES] + [f"TLSv1.2:{suite}" for suite in TLS12_SUITES]
    command = java_program(
        "TlsClient",
        f"-Djava.security.properties={limits}",
        "-Djavax.net.debug=ssl:handshake",
        "-XX:TieredStopAtLevel=1",
    )
    status, stdout, stderr = await run(
        (*command, site.ca, f"{NAME}:{site.port}", "1000000", *pairs), seconds=60 * SCALE
    )
    assert status == 0, stdout + stderr[-5000:]
    assert stdout.splitlines() == [
        *(f"{pair.replace(':', ' ')} works" for pair in pairs),
        "TLSv1.2 resumed",
        "TLSv1.3 resumed",
    ]
    assert stderr.count("Produced KeyUpdate post-handshake message") >= 3 * len(TLS13_SUITES)
    assert stderr.count("Consuming KeyUpdate post-handshake message") >= 3 * len(TLS13_SUITES)
