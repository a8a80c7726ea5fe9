"""Plain HTTP to backends with TLS: what is offered and verified, what a failure looks like, bodies both ways."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Script, Web
from tests.support.certificates import DAY, Authority
from tests.support.deadline import eventually
from tests.support.gateway import Config, Gateway, route
from tests.support.raw import Connection, handshake, request
from tests.support.tls_servers import V12, V13, Alerting, Bytewise, server

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUITES = (
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "p256"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "p256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "p256"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "rsa"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "rsa"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "rsa"),
)
WAYS = (*(suite.lower() for suite, _ in SUITES), "tls13", "bytewise12", "bytewise13")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"), "Another Authority")


def config_of(upstreams: dict[str, Config], **keys: Any) -> Config:
    """A route for each upstream, by its name."""
    return {"upstreams": upstreams, "routes": [route(name, name) for name in upstreams], **keys}


async def ask(connection: Connection, path: str) -> tuple[int, str]:
    """Status and body of the answer to a request."""
    await connection.send(request(path))
    answer = await connection.answer()
    return answer.status, answer.text


# --- what works -------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(
    start_shared_gateway: StartGateway, shared_backends: Backends, authority: Authority
) -> AsyncIterator[Gateway]:
    """A gateway with a backend for each way of speaking TLS."""
    pairs = {kind: authority.issue("localhost", "127.0.0.1", kind=kind, file=kind) for kind in ("p256", "rsa")}
    tls = {"ca": str(authority.ca)}
    upstreams: dict[str, Config] = {}
    for suite, kind in SUITES:
        backend = await shared_backends.web(tls=server(pairs[kind], V12, suite))
        upstreams[suite.lower()] = {"backends": [backend.address], "tls": tls}
    backend = await shared_backends.web(tls=server(pairs["p256"], V13))
    upstreams["tls13"] = {"backends": [backend.address], "tls": tls}
    between = []
    for name, version in (("bytewise12", V12), ("bytewise13", V13)):
        backend = await shared_backends.web(tls=server(pairs["p256"], version))
        between.append(await Bytewise.start(backend.address))
        upstreams[name] = {"backends": [between[-1].address], "tls": {**tls, "server_name": "localhost"}}
    yield await start_shared_gateway(config_of(upstreams))
    for each in between:
        await each.close()


@pytest.mark.parametrize("way", WAYS)
async def test_requests_and_bodies(web: Gateway, open_connection: Open, way: str) -> None:
    client = await open_connection(web)
    status, text = await ask(client, f"/{way}/x")
    assert (status, json.loads(text)["target"]) == (200, f"/{way}/x")
    size = 20_000 if way.startswith("bytewise") else 700_000
    body = bytes(range(256)) * (size // 256)
    await client.send(request(f"/{way}/upload", f"Content-Length: {len(body)}", method="POST") + body)
    answer = json.loads((await client.answer()).text)
    assert (answer["sha256"], answer["size"]) == (hashlib.sha256(body).hexdigest(), len(body))
    status, _ = await ask(client, f"/{way}/x")
    assert status == 200
    await client.send(request(f"/{way}/download?size={size}"))
    assert (await client.answer()).body == (bytes(range(256)) * 256 * 11)[:size]


@pytest.mark.parametrize("way", ["tls13", "ecdhe-rsa-aes128-gcm-sha256", "bytewise13"])
async def test_connections_are_used_again(web: Gateway, open_connection: Open, way: str) -> None:
    before = await web.scrape()
    address = web.config["upstreams"][way]["backends"][0]
    client = await open_connection(web)
    for number in range(5):
        status, text = await ask(client, f"/{way}/{number}")
        assert (status, json.loads(text)["target"]) == (200, f"/{way}/{number}")
    labels = {"upstream": way, "backend": address, "for": "request"}
    pool, dial = {**labels, "from": "pool"}, {**labels, "from": "dial"}
    name = "gateway_backend_connections_total"
    start = before.value(name, **pool)
    now = await web.until(lambda scrape: scrape.value(name, **pool) - start >= 4, "connections to be used again")
    assert now.value(name, **dial) - before.value(name, **dial) <= 1


async def test_an_event_stream(web: Gateway, open_connection: Open, shared_backends: Backends) -> None:
    (backend,) = [
        each
        for each in shared_backends._started
        if isinstance(each, Web) and each.address == web.config["upstreams"]["tls13"]["backends"][0]
    ]
    client = await open_connection(web)
    await client.send(request("/tls13/sse"))
    assert (await client.head()).status == 200
    for event in ("one", "x" * 50_000, "three"):
        backend.events["/tls13/sse"].put_nowait(event)
        data = b""
        while not data.endswith(b"\n\n"):
            data += await client.chunk()
        assert data == f"data: {event}\n\n".encode()
    backend.events["/tls13/sse"].put_nowait(None)
    assert await client.chunked() == b""


async def test_handshakes_are_counted(web: Gateway) -> None:
    scrape = await web.scrape()
    name = "gateway_tls_handshakes_total"
    assert scrape.value(name, side="backend", result="ok", version="1.2") >= 7
    assert scrape.value(name, side="backend", result="ok", version="1.3") >= 2
    ok = sum(scrape.value(name, side="backend", result="ok", version=each) for each in ("1.2", "1.3"))
    assert scrape.value("gateway_tls_handshake_duration_seconds_count", side="backend") == ok


# --- what does not ----------------------------------------------------------------------------------------------------

FAILURES = {
    "expired": (502, "certificate_expired", "expired", "its certificate has expired"),
    "future": (502, "certificate_not_yet_valid", "not_yet_valid", "its certificate is not valid yet"),
    "name": (502, "wrong_name", "wrong_name", "its certificate is for another name"),
    "server-name": (502, "wrong_name", "wrong_name", "its certificate is for another name"),
    "issuer": (502, "unknown_issuer", "unknown_issuer", "its certificate was issued by nobody who is trusted"),
    "system": (502, "unknown_issuer", "unknown_issuer", "its certificate was issued by nobody who is trusted"),
    "http": (502, "plain_http", "plain_http", "it speaks plain HTTP"),
    "other": (502, "not_tls", "not_tls", "it does not speak TLS"),
    "old": (502, "unsupported_version", "unsupported_version", "no version is known to both"),
    "alert": (502, "refused_by_backend", "rejected_by_peer", "it refuses the handshake"),
    "closes": (502, "closed_in_handshake", "closed", "it closed the connection in the middle of the handshake"),
    "floods": (502, "handshake_failed", "too_large", "the handshake failed"),
    "mutual12": (502, "refused_by_backend", "rejected_by_peer", "it refuses the handshake"),
    "silent": (504, "timeout", "timeout", ""),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def failing(
    start_shared_gateway: StartGateway, shared_backends: Backends, authority: Authority, foreign: Authority
) -> AsyncIterator[Gateway]:
    async def closes(connection: Connection) -> None:
        await connection.read(1)

    async def talks(connection: Connection) -> None:
        await connection.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        await connection.reader.read()

    def refuses_hello(description: int) -> Script:
        async def alerts(connection: Connection) -> None:
            await connection.read(1)
            await connection.send(b"\x15\x03\x03\x00\x02\x02%c" % description)
            await connection.reader.read()

        return alerts

    async def floods(connection: Connection) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await connection.send(b"\x16\x03\x03\x00\x01\x02" * 10_000)

    async def refuses(connection: Connection) -> None:
        await connection.read(1)
        await connection.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    tls = {"ca": str(authority.ca)}
    good = server(authority.issue("127.0.0.1", file="good"))
    contexts = {
        "expired": server(authority.issue("127.0.0.1", file="expired", starts=-3 * DAY, ends=-2 * DAY)),
        "future": server(authority.issue("127.0.0.1", file="future", starts=2 * DAY)),
        "name": server(authority.issue("other.internal")),
        "server-name": good,
        "issuer": server(foreign.issue("127.0.0.1", file="foreign")),
        "system": good,
    }
    upstreams: dict[str, Config] = {}
    for name, context in contexts.items():
        backend = await shared_backends.scripted(tls=context)
        upstreams[name] = {"backends": [backend.address], "tls": tls}
    upstreams["server-name"]["tls"] = {**tls, "server_name": "chat.internal"}
    upstreams["system"]["tls"] = True
    scripts: dict[str, Script | None] = {
        **{"http": refuses, "other": talks, "closes": closes, "floods": floods, "silent": None},
        **{"old": refuses_hello(70), "alert": refuses_hello(40)},  # protocol_version, handshake_failure
    }
    for name, script in scripts.items():
        plain = await shared_backends.scripted()
        if script is not None:
            plain.plays(script)
        upstreams[name] = {"backends": [plain.address], "tls": tls}
    own = authority.issue("127.0.0.1", file="mutual")
    wants = {
        name: Alerting(server(own, version, client_ca=authority.ca))
        for name, version in (("mutual12", V12), ("mutual13", V13))
    }
    upstreams |= {name: {"backends": [each.address], "tls": tls} for name, each in wants.items()}
    with wants["mutual12"], wants["mutual13"]:
        yield await start_shared_gateway(config_of(upstreams, timeouts={"connect": "500ms"}))


@pytest.mark.either_build
@pytest.mark.parametrize("name", FAILURES)
async def test_failures(failing: Gateway, open_connection: Open, name: str) -> None:
    status, reason, result, words = FAILURES[name]
    before = await failing.scrape()
    client = await open_connection(failing)
    answered = await ask(client, f"/{name}")
    why = f"TLS with the backend cannot be established: {words}"
    if name == "silent":
        why = "the backend did not complete the TLS handshake in time"
    assert (answered[0], answered[1].partition(": ")[2]) == (status, f"{why}\n")
    backend = failing.config["upstreams"][name]["backends"][0]
    await failing.counts(before, "gateway_backend_connect_errors_total", upstream=name, backend=backend, reason=reason)
    await failing.counts(before, "gateway_tls_handshakes_total", side="backend", result=result, version="-")
    await failing.logged(event="http", client=client.name, route=name, backend=backend, status=status, reason=why)
    if status == 502:
        await failing.stderr.containing(f"backend {backend}: TLS cannot be established: ")
    await failing.until(
        lambda now: now.value("gateway_backend_up", upstream=name, backend=backend) == 0, "it to be down"
    )


@pytest.mark.either_build
async def test_what_openssl_says_is_in_the_log_only(failing: Gateway, open_connection: Open) -> None:
    _, text = await ask(await open_connection(failing), "/server-name")
    assert "chat.internal" not in text
    line = await failing.stderr.containing("Hostname mismatch")
    assert "certificate is not valid for 'chat.internal'" in line


# The alert comes before the request is sent, or behind it.
REFUSES = [
    "the backend ended TLS: certificate required",
    "TLS with the backend cannot be established: it refuses the handshake",
]


async def test_a_certificate_that_is_refused_behind_the_handshake(failing: Gateway, open_connection: Open) -> None:
    before = await failing.scrape()
    client = await open_connection(failing)
    status, text = await ask(client, "/mutual13")
    assert status == 502
    assert any(each in text for each in REFUSES)
    backend = failing.config["upstreams"]["mutual13"]["backends"][0]
    await failing.counts(
        before,
        "gateway_backend_connect_errors_total",
        upstream="mutual13",
        backend=backend,
        reason="refused_by_backend",
    )


@pytest.mark.either_build
async def test_upgrades_fail_alike(failing: Gateway, open_connection: Open) -> None:
    for name, status, words in (
        ("expired", 502, ["its certificate has expired"]),
        ("silent", 504, ["did not complete the TLS handshake in time"]),
        ("mutual13", 502, REFUSES),
    ):
        client = await open_connection(failing)
        await client.send(handshake(f"/{name}"))
        answer = await client.answer()
        assert answer.status == status
        assert any(each in answer.text for each in words)


@pytest.mark.either_build
async def test_no_descriptor_is_left_behind(failing: Gateway, open_connection: Open) -> None:
    (pid,) = await failing.worker_pids()
    for _ in range(2):
        before = os.listdir(f"/proc/{pid}/fd")
        for name in FAILURES:
            client = await open_connection(failing)
            await ask(client, f"/{name}")
            await client.close()
    await eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= len(before), "the connections to be closed")
