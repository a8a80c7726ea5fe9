"""``gateway check --connect``: what it says of backends that can be reached, and of those that cannot."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.support.certificates import DAY, Authority
from tests.support.deadline import DEADLINE_SECONDS, within
from tests.support.dns_server import DnsServer
from tests.support.gateway import Config, command
from tests.support.ports import free_port
from tests.support.tls_servers import V12, V13, Alerting, server

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

Serve = Callable[..., Awaitable[str]]
Says = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest_asyncio.fixture(loop_scope="module")
async def serve() -> AsyncIterator[Serve]:
    """Starts a server, and returns its address."""
    servers: list[asyncio.Server] = []
    ended = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.transport.abort()

    async def start(context: ssl.SSLContext | None = None, says: Says = hold, path: Path | None = None) -> str:
        if path is not None:
            servers.append(await asyncio.start_unix_server(says, path, ssl=context))
            return f"unix:{path}"
        port = free_port()
        servers.append(await asyncio.start_server(says, "127.0.0.1", port, ssl=context))
        return f"127.0.0.1:{port}"

    yield start
    ended.set()
    for each in servers:
        each.close()
        await each.wait_closed()


async def check(directory: Path, upstreams: Config, **keys: Any) -> tuple[int, list[str], str]:
    """Exit status, lines about backends, and what is on stderr."""
    file = directory / "gateway.yaml"
    config = {
        "listen": [{"address": f"127.0.0.1:{free_port()}"}],
        "upstreams": upstreams,
        "routes": [{"name": name, "match": {"path": f"/{name}"}, "upstream": name} for name in upstreams],
        **keys,
    }
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    status, stdout, stderr = await command("check", "--connect", "-c", file)
    lines = stdout.splitlines()
    assert lines[0].startswith(f"{file}: ok: ")
    return status, lines[1:], stderr


async def test_all_is_well(tmp_path: Path, authority: Authority, serve: Serve) -> None:
    names = server(authority.issue("chat.internal", "10.0.0.5"), V12, "ECDHE-ECDSA-AES256-GCM-SHA384")
    addresses = server(authority.issue("127.0.0.1", file="loopback"), V13)
    own = authority.issue("gateway", client=True)
    mutual = server(authority.issue("127.0.0.1", kind="rsa", file="mutual"), client_ca=authority.ca)
    plain, by_name, by_address = await serve(), await serve(names), await serve(addresses)
    unix = await serve(names, path=tmp_path / "backend.sock")
    wants_certificate = await serve(mutual)
    ca = {"ca": str(authority.ca)}
    status, lines, stderr = await check(
        tmp_path,
        {
            "plain": {"backends": [plain]},
            "named": {"backends": [by_name, unix], "tls": {**ca, "server_name": "chat.internal"}},
            "address": {"backends": [by_address], "tls": ca},
            "mutual": {"backends": [wants_certificate], "tls": {**ca, **own.section}},
        },
    )
    assert (status, stderr) == (0, "")
    suite = "TLS 1.2, ECDHE-ECDSA-AES256-GCM-SHA384, CN=chat.internal, for chat.internal 10.0.0.5, valid until 20"
    expected = [
        f"plain: {plain}: {plain}: ok: connected",
        f"named: {by_name}: {by_name}: ok: {suite}",
        f"named: {unix}: {unix}: ok: {suite}",
        f"address: {by_address}: {by_address}: ok: TLS 1.3, TLS_AES_256_GCM_SHA384, CN=127.0.0.1, for 127.0.0.1, valid",
        f"mutual: {wants_certificate}: {wants_certificate}: ok: TLS 1.3, TLS_AES_256_GCM_SHA384, CN=127.0.0.1, for",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


async def test_certificates_that_are_not_accepted(
    tmp_path: Path, authority: Authority, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    foreign = Authority(tmp_path_factory.mktemp("foreign"), "Another Authority")
    expired = await serve(server(authority.issue("127.0.0.1", file="expired", starts=-3 * DAY, ends=-2 * DAY)))
    future = await serve(server(authority.issue("127.0.0.1", file="future", starts=2 * DAY)))
    other_name = await serve(server(authority.issue("other.internal")))
    unknown = await serve(server(foreign.issue("127.0.0.1")))
    status, lines, stderr = await check(
        tmp_path,
        {
            "one": {
                "backends": [expired, future, other_name, unknown],
                "tls": {"ca": str(authority.ca), "verify": True},
            }
        },
    )
    assert status == 1
    assert stderr == "4 backends cannot be reached: " + ", ".join(
        f"one: {backend}" for backend in (expired, future, other_name, unknown)
    )
    for line, (backend, words) in zip(
        lines,
        [
            (expired, ["certificate has expired; without verification: TLS 1.3", "expired on 20"]),
            (future, ["certificate is not yet valid; without verification: TLS 1.3", "not valid before 20"]),
            (other_name, ["IP address mismatch", "CN=other.internal, for other.internal"]),
            (unknown, ["unable to get local issuer certificate"]),
        ],
        strict=True,
    ):
        assert line.startswith(f"one: {backend}: {backend}: failed: TLS: the peer's certificate is not accepted: ")
        assert all(each in line for each in words), line


async def test_backends_that_do_not_speak_tls(tmp_path: Path, authority: Authority, serve: Serve) -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        await reader.read()
        writer.close()

    speaks_http, closes, other = await serve(says=http), await serve(says=close), await serve(says=echo)
    silent, nobody = await serve(), f"127.0.0.1:{free_port()}"
    status, lines, _ = await check(
        tmp_path,
        {"one": {"backends": [speaks_http, closes, other, silent, nobody], "tls": {"ca": str(authority.ca)}}},
        timeouts={"connect": "300ms"},
    )
    assert status == 1
    assert [line.partition(": failed: ")[2] for line in lines] == [
        "TLS: the backend speaks plain HTTP on this port",
        "TLS: the backend closed the connection in the middle of the handshake",
        "TLS: the first bytes are not those of TLS",
        "no answer within 0.3 s",
        "Connection refused",
    ]


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
@pytest.mark.parametrize("alerts", [True, False], ids=["alert", "no alert"])
async def test_a_backend_that_wants_a_certificate(
    tmp_path: Path,
    authority: Authority,
    serve: Serve,
    version: ssl.TLSVersion,
    alerts: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    foreign = Authority(tmp_path_factory.mktemp("foreign"), "Another Authority").issue("gateway", client=True)
    context = server(authority.issue("127.0.0.1", file="wants"), version, client_ca=authority.ca)
    ca = {"ca": str(authority.ca)}
    # asyncio's server sends no alert.
    with Alerting(context) as alerting:
        backend = alerting.address if alerts else await serve(context)
        status, lines, _ = await check(
            tmp_path,
            {
                "none": {"backends": [backend], "tls": ca},
                "foreign": {"backends": [backend], "tls": {**ca, **foreign.section}},
            },
        )
    assert status == 1
    if not alerts:
        words = [
            "behind the handshake: does it want `cert`?" if version is V13 else "in the middle of the handshake"
        ] * 2
    else:
        words = ["certificate required" if version is V13 else "handshake failure", "unknown ca"]
    for line, upstream, end in zip(lines, ("none", "foreign"), words, strict=True):
        assert line.startswith(f"{upstream}: {backend}: {backend}: failed: TLS: the ")
        assert line.endswith(end)


async def test_names(tmp_path: Path, authority: Authority, serve: Serve) -> None:
    context = server(authority.issue("localhost"))
    port = (await serve(context)).rpartition(":")[2]
    status, lines, stderr = await check(
        tmp_path,
        {"one": {"backends": [f"localhost:{port}", "none.invalid:443"], "tls": {"ca": str(authority.ca)}}},
    )
    assert status == 1
    assert stderr == "1 backend cannot be reached: one: none.invalid:443"
    assert any(line.startswith(f"one: localhost:{port}: 127.0.0.1:{port}: ok: TLS 1.3, ") for line in lines)
    assert lines[-1].startswith("one: none.invalid:443: -: failed: its name ")


async def test_no_verification(tmp_path: Path, authority: Authority, serve: Serve) -> None:
    backend = await serve(server(authority.issue("other.internal", file="unverified")))
    status, lines, stderr = await check(tmp_path, {"one": {"backends": [backend], "tls": {"verify": False}}})
    assert (status, len(lines)) == (0, 1)
    assert lines[0].startswith(
        f"one: {backend}: {backend}: ok: TLS 1.3, TLS_AES_256_GCM_SHA384, CN=other.internal, for"
    )
    assert "upstreams.one.tls.verify: warning: certificates of backends are not verified" in stderr


async def test_an_error_in_the_file_is_not_one_of_a_backend(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("listen: []\n")
    status, stdout, _ = await command("check", "--connect", "-c", file)
    assert (status, stdout) == (2, "")


async def test_a_backend_that_wants_a_proxy_header(tmp_path: Path, authority: Authority) -> None:
    """It is named the gateway itself, as no client is there; in version 1 by its address."""
    files = authority.issue("127.0.0.1", file="behind-a-header")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(DEADLINE_SECONDS)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    headers: list[tuple[bytes, str]] = []

    def serve() -> None:
        for size in (16, 0, 16):
            connection, (_, port) = listening.accept()
            connection.settimeout(DEADLINE_SECONDS)
            header = connection.recv(size, socket.MSG_WAITALL) if size else b""
            while not size and not header.endswith(b"\r\n"):
                header += connection.recv(1)
            headers.append((header, f"127.0.0.1 127.0.0.1 {port} "))
            if len(headers) < 3:
                connection.close()
            else:
                with context.wrap_socket(connection, server_side=True) as sealed:
                    sealed.recv(1)

    served = asyncio.create_task(asyncio.to_thread(serve))
    found = []
    for upstream in (
        {"proxy_protocol": "v2"},
        {"proxy_protocol": "v1"},
        {"proxy_protocol": "v2", "tls": {"ca": str(authority.ca)}},
    ):
        status, lines, stderr = await check(tmp_path, {"one": {"backends": [address], **upstream}})
        assert (status, stderr) == (0, ""), lines
        found += lines
    await within(served, "the backend's end")
    listening.close()
    assert "TLS" in found[-1]
    local = bytes.fromhex("0D0A0D0A000D0A515549540A20000000")
    assert headers[0][0] == headers[2][0] == local
    assert headers[1][0].decode().startswith(f"PROXY TCP4 {headers[1][1]}")


async def test_backends_that_are_discovered(tmp_path: Path, authority: Authority, serve: Serve) -> None:
    """By DNS with TLS, by SRV records and in a file: what was found is said and tried; each source is asked once."""
    names = await DnsServer.start()
    secure = (await serve(server(authority.issue("chat.internal")))).rpartition(":")[2]
    plain, listed = await serve(), await serve()
    gone = f"127.0.0.1:{free_port()}"
    names.records = {
        ("chat.internal", "A"): ["127.0.0.1"],
        ("_chat._tcp.internal", "SRV"): [f"0 1 {plain.rpartition(':')[2]} one.internal."],
        ("one.internal", "A"): ["127.0.0.1"],
    }
    (tmp_path / "targets.json").write_text(json.dumps([{"targets": [plain, gone, listed]}]))
    by_name = {"dns": f"chat.internal:{secure}", "server": names.address}
    ca = {"ca": str(authority.ca)}
    status, lines, stderr = await check(
        tmp_path,
        {
            "dns": {"discover": by_name, "tls": ca},
            "again": {"discover": by_name, "tls": {**ca, "server_name": "other.internal"}},
            "srv": {"discover": {"srv": "_chat._tcp.internal", "server": names.address}},
            "file": {"backends": [listed], "discover": {"file": "targets.json"}},
        },
    )
    found = f"127.0.0.1:{secure}"
    assert lines[0] == f"dns: dns chat.internal:{secure}: ok: 1 backend: {found}"
    assert lines[1].startswith(f"dns: {found}: {found}: ok: TLS 1.3, TLS_AES_256_GCM_SHA384, CN=chat.internal, for")
    assert lines[3].startswith(
        f"again: {found}: {found}: failed: TLS: the peer's certificate is not accepted: Hostname"
    )
    file = tmp_path / "targets.json"
    assert lines[4:] == [
        f"srv: srv _chat._tcp.internal: ok: 1 backend: {plain}",
        f"srv: {plain}: {plain}: ok: connected",
        f"file: {listed}: {listed}: ok: connected",
        f"file: file {file}: ok: 2 backends: {plain}, {gone}",
        f"file: {plain}: {plain}: ok: connected",
        f"file: {gone}: {gone}: failed: Connection refused",
    ]
    assert (status, stderr) == (1, f"2 backends cannot be reached: again: {found}, file: {gone}")
    assert names.asked.count(("chat.internal", "A")) == 1
    names.down()


async def test_sources_that_cannot_be_used(tmp_path: Path, serve: Serve) -> None:
    """Each is said with its reason, within a bound, and the others are tried all the same."""
    names, silent = await DnsServer.start(), await DnsServer.start()
    silent.silent = True
    listed = await serve()
    names.records = {("empty.internal", "TXT"): ["nothing"]}
    (tmp_path / "broken.json").write_text("{]")
    status, lines, stderr = await check(
        tmp_path,
        {
            "none": {"discover": {"dns": "none.internal:1", "server": names.address}},
            "empty": {"discover": {"srv": "empty.internal", "server": names.address}},
            "silent": {"backends": [listed], "discover": {"dns": "chat.internal:1", "server": silent.address}},
            "file": {"discover": {"file": "broken.json"}},
        },
    )
    assert lines[0].startswith("none: dns none.internal:1: failed: The DNS query name does not exist")
    assert lines[1] == "empty: srv empty.internal: failed: the answer has no addresses"
    assert lines[2] == f"silent: {listed}: {listed}: ok: connected"
    assert lines[3].startswith("silent: dns chat.internal:1: failed: ")
    assert "timed out" in lines[3] or "expired" in lines[3]
    assert lines[4].startswith(f"file: file {tmp_path / 'broken.json'}: failed: {tmp_path / 'broken.json'}: is neither")
    assert status == 1
    assert stderr.splitlines()[-1] == (
        "4 sources of backends cannot be used: none: dns none.internal:1, empty: srv empty.internal,"
        f" silent: dns chat.internal:1, file: file {tmp_path / 'broken.json'}"
    )
    names.down()
    silent.down()
