"""Certificates of listeners: chosen by name, renewed on disk, broken on disk, asked of clients."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import time
from pathlib import Path

import pytest

from tests.conftest import Backends, StartGateway
from tests.support.certificates import Authority, Files
from tests.support.deadline import within
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Gateway, command, to_one
from tests.support.plain import RawBackend
from tests.support.ports import free_port
from tests.support.raw import connect, handshake, request
from tests.support.tls import TlsConnection, trusting

from .conftest import Secure
from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
PROMISED_SECONDS = 5
WIDE = {"COLUMNS": "250"}


def listener(*pairs: Files, **tls: object) -> dict[str, object]:
    section = {"certificates": [pair.section for pair in pairs], **tls}
    return {"address": f"127.0.0.1:{free_port()}", "tls": section}


def shown(client: TlsConnection) -> bytes | None:
    """The certificate that the gateway has shown."""
    return client.tls.getpeercert(True)


def der(pair: Files) -> bytes:
    first, end, _ = pair.cert.read_text().partition(ssl.PEM_FOOTER)  # its issuers' are behind it
    return ssl.PEM_cert_to_DER_cert(first + end)


def replace(old: Path, new: Path) -> None:
    """As certbot and kubelet do it: at once."""
    copy = old.with_suffix(".new")
    shutil.copy(new, copy)
    os.replace(copy, old)


async def status_of(gateway: Gateway) -> str:
    """What ``gateway status`` says."""
    status, output, _ = await command("status", "-c", gateway.file, env=WIDE)
    assert status == 0
    return output


async def test_three_certificates_by_name(
    start_gateway: StartGateway, raw_backend: RawBackend, secure: Secure, authority: Authority
) -> None:
    first = authority.issue("first.example.com", file="first")
    exact = authority.issue("a.example.org", kind="rsa", file="exact")
    wild = authority.issue("*.example.org", file="wild")
    gateway = await start_gateway(to_one(raw_backend.address, listen=[listener(first, exact, wild)]))
    anybody = trusting(authority.ca)
    anybody.check_hostname = False
    for name, pair in (
        ("first.example.com", first),
        ("a.example.org", exact),
        ("A.Example.Org", exact),
        ("b.example.org", wild),
        ("b.b.example.org", first),
        ("example.org", first),
        ("other.example", first),
        (None, first),
    ):
        client = await secure(gateway, name=name, context=anybody)
        assert shown(client) == der(pair), name
        await client.send(request("/"))
        assert (await client.answer()).status == 200


async def test_an_intermediate_certificate_is_sent_along(
    start_gateway: StartGateway, raw_backend: RawBackend, secure: Secure, authority: Authority
) -> None:
    between = Authority(authority.directory, "Between", authority)
    pair = between.issue("gateway.test", file="with-chain")
    gateway = await start_gateway(to_one(raw_backend.address, listen=[listener(pair)]))
    assert shown(await secure(gateway)) == der(pair)


@pytest.fixture
def copies(tmp_path: Path, authority: Authority) -> Files:
    """A certificate whose files a test may change."""
    pair = authority.issue("gateway.test", file="before")
    copied = Files(tmp_path / "live.pem", tmp_path / "live.key")
    shutil.copy(pair.cert, copied.cert)
    shutil.copy(pair.key, copied.key)
    return copied


async def uses(gateway: Gateway, secure: Secure, pair: Files) -> float:
    """Wait until the gateway shows a certificate; how long that took, in seconds."""
    began = time.monotonic()

    async def used() -> bool:
        return shown(await secure(gateway)) == der(pair)

    while not await used():
        assert time.monotonic() - began < 2 * PROMISED_SECONDS
    return time.monotonic() - began


async def test_a_renewed_certificate_is_used_soon_and_nobody_notices(
    start_gateway: StartGateway, backends: Backends, secure: Secure, authority: Authority, copies: Files
) -> None:
    web = await backends.web()
    gateway = await start_gateway({"workers": 2, **to_one(web.address, listen=[listener(copies)])})
    before = await secure(gateway)
    await before.send(request("/"))
    await before.answer()
    new = authority.issue("gateway.test", file="after")
    replace(copies.cert, new.cert)
    replace(copies.key, new.key)
    assert await uses(gateway, secure, new) < PROMISED_SECONDS
    line = await gateway.stderr.containing("certificates read again")
    assert str(copies.cert) in line
    await before.send(request("/"))
    assert (await before.answer()).status == 200
    expires = (await gateway.api("status"))["certificates"][0]["expires"]
    scrape = await gateway.scrape()
    assert scrape.value("gateway_tls_certificate_expiry_timestamp_seconds", certificate=str(copies.cert)) == expires
    # Of a worker that starts later, too.
    await gateway.kill_worker(0)
    await gateway.kill_worker(1)
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 2, "new workers")
    for _ in range(4):
        assert shown(await secure(gateway)) == der(new)


async def test_a_broken_pair_keeps_the_one_before(
    start_gateway: StartGateway, raw_backend: RawBackend, secure: Secure, authority: Authority, copies: Files
) -> None:
    gateway = await start_gateway(to_one(raw_backend.address, listen=[listener(copies)]))
    before = shown(await secure(gateway))
    new = authority.issue("gateway.test", file="only-half")
    gateway.tolerate("the previous one stays in use")
    replace(copies.cert, new.cert)
    await gateway.stderr.containing("the previous one stays in use")
    labels = {"certificate": str(copies.cert)}
    await gateway.until(lambda scrape: scrape.value("gateway_tls_certificate_errors_total", **labels) == 1, "a count")
    (certificate,) = (await gateway.api("status"))["certificates"]
    assert "is not that of the certificate" in certificate["error"]
    assert "file is broken" in await status_of(gateway)
    assert shown(await secure(gateway)) == before
    # A worker that starts while it is broken has the previous one as well.
    await gateway.kill_worker(0)
    await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
    assert shown(await secure(gateway)) == before
    # A reload is refused as a whole.
    gateway.tolerate("reload failed")
    await gateway.reload()
    assert shown(await secure(gateway)) == before
    replace(copies.key, new.key)
    await uses(gateway, secure, new)
    (certificate,) = (await gateway.api("status"))["certificates"]
    assert certificate["error"] is None


async def test_a_reload_changes_the_tls_of_an_open_listener(
    start_gateway: StartGateway, raw_backend: RawBackend, secure: Secure, authority: Authority
) -> None:
    pair = authority.issue("gateway.test", file="reloaded")
    config = to_one(raw_backend.address, listen=[listener(pair)])
    gateway = await start_gateway(config)
    old = await secure(gateway, "1.2")
    gateway.config["listen"][0]["tls"]["min_version"] = "1.3"
    gateway.write(config)
    await gateway.reload()
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        await secure(gateway, "1.2")
    await secure(gateway, "1.3")
    await old.send(request("/"))
    assert (await old.answer()).status == 200
    del gateway.config["listen"][0]["tls"]
    gateway.write(config)
    await gateway.reload()
    plain = await gateway.connect()
    await plain.send(request("/"))
    assert (await plain.answer()).status == 200
    await plain.close()
    await old.send(request("/"))
    assert (await old.answer()).status == 200


# --- mutual TLS -------------------------------------------------------------------------------------------------------


def as_client(authority: Authority, version: str, pair: Files | None) -> ssl.SSLContext:
    context = trusting(authority.ca, version)
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


@pytest.fixture(scope="module")
def device(authority: Authority) -> Files:
    return authority.issue("device7.example", "10.0.0.7", client=True, subject="device 7, the green one", file="device")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Authority(tmp_path_factory.mktemp("foreign"), "Foreign").issue("intruder", client=True)


@VERSIONS
async def test_client_certificates(
    start_gateway: StartGateway,
    raw_backend: RawBackend,
    secure: Secure,
    authority: Authority,
    device: Files,
    foreign: Files,
    version: str,
) -> None:
    pair = authority.issue("gateway.test", file="mutual")
    ca = {"client_ca": str(authority.ca)}
    listen = [listener(pair, **ca), listener(pair, **ca, client_required=False)]
    gateway = await start_gateway(to_one(raw_backend.address, listen=listen))

    async def ask(at: int, who: Files | None) -> str:
        """What the backend hears of the client's certificate."""
        raw = await connect(gateway.config["listen"][at]["address"])
        client = TlsConnection(as_client(authority, version, who), "gateway.test", raw)
        try:
            await client.shake()
            forged = request("/", "X-Client-Cert-Fingerprint: forged", "X-Client-Cert-Subject: CN=admin")
            await client.send(forged)
            answer = await client.head()
            assert answer.status == 200
        finally:
            await client.close()
        head = raw_backend.requests[-1].head
        assert head is not None
        found = [f"{name}={value}" for name, value in head.fields if name.lower().startswith("x-client-cert")]
        return "|".join(found)

    fingerprint = hashlib.sha256(der(device)).hexdigest()
    expected = (
        "X-Client-Cert-Subject=CN=device 7\\, the green one|X-Client-Cert-San=DNS:device7.example, IP Address:10.0.0.7"
        f"|X-Client-Cert-Fingerprint={fingerprint}"
    )
    assert await ask(0, device) == expected
    assert await ask(1, device) == expected
    assert await ask(1, None) == ""
    before = await gateway.scrape()
    refused = [(0, None, "no_certificate"), (0, foreign, "unknown_issuer"), (1, foreign, "unknown_issuer")]
    for at, who, _ in refused:
        with pytest.raises((ssl.SSLError, AssertionError, OSError)):
            await ask(at, who)
    for result, count in (("no_certificate", 1), ("unknown_issuer", 2)):
        labels = {"side": "client", "result": result, "version": "-"}
        await gateway.counts(before, "gateway_tls_handshakes_total", count, **labels)


async def test_a_resumed_session_keeps_its_client_certificate(
    start_gateway: StartGateway, raw_backend: RawBackend, secure: Secure, authority: Authority, device: Files
) -> None:
    pair = authority.issue("gateway.test", file="resumed")
    gateway = await start_gateway(to_one(raw_backend.address, listen=[listener(pair, client_ca=str(authority.ca))]))
    for version in ("1.2", "1.3"):
        context = as_client(authority, version, device)
        first = await secure(gateway, context=context)
        await first.send(request("/"))
        await first.answer()
        again = await secure(gateway, context=context, shake=False)
        again.tls.session = first.tls.session
        await again.shake()
        assert again.tls.session_reused
        await again.send(request("/"))
        await again.answer()
        head = raw_backend.requests[-1].head
        assert head is not None
        assert head.value("x-client-cert-fingerprint") == hashlib.sha256(der(device)).hexdigest()


@pytest.mark.parametrize("how", ["reload", "file", "removed", "listener", "upgrade"])
async def test_no_connection_outlives_the_ca_that_has_let_it_in(
    start_gateway: StartGateway,
    backends: Backends,
    secure: Secure,
    authority: Authority,
    device: Files,
    tmp_path: Path,
    how: str,
) -> None:
    web = await backends.web()
    pair = authority.issue("gateway.test", file="outlived")
    ca, others = tmp_path / "ca.pem", Authority(tmp_path, "Others").ca
    shutil.copy(authority.ca, ca)
    listen = [listener(pair, client_ca=str(ca)), listener(pair)]
    gateway = await start_gateway(to_one(web.address, listen=listen))
    context = as_client(authority, "1.3", device)
    idle, busy, tunnel = [await secure(gateway, context=context) for _ in range(3)]
    free = TlsConnection(trusting(authority.ca), "gateway.test", await connect(listen[1]["address"]))
    await free.shake()
    await tunnel.send(handshake("/a/ws"))
    assert (await tunnel.head()).status == 101
    for _ in range(2):
        for client in (idle, free):
            await client.send(request("/"))
            assert (await client.answer()).status == 200
        await gateway.reload()  # nothing changes
    await busy.send(request("/a/poll"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")

    if how == "file":
        replace(ca, others)
    else:
        tls = listen[0]["tls"]
        if how == "removed":
            del tls["client_ca"]
        elif how == "listener":
            del listen[0]
        else:
            tls["client_ca"] = str(others)
        gateway.write(to_one(web.address, listen=listen))
        if how == "upgrade":  # which waits for requests in flight
            web.events["/a/poll"].put_nowait("in time")
            await upgrade(gateway)
        else:
            await gateway.reload()
    assert await idle.ends() == b""
    if how != "upgrade":
        web.events["/a/poll"].put_nowait("in time")
    answer = await busy.answer()
    assert (answer.status, answer.body) == (200, b"in time")
    assert answer.head.value("Connection") == (None if how == "upgrade" else "close")
    assert await busy.ends() == b""
    await tunnel.echoes(from_client(TEXT, b"still here"), frame(TEXT, b"still here"))
    await free.send(request("/"))
    assert (await free.answer()).status == 200
    await free.close()


async def test_a_listener_that_asks_for_certificates_from_now_on(
    start_gateway: StartGateway, raw_backend: RawBackend, secure: Secure, authority: Authority
) -> None:
    """Connections from before have shown none, with TLS or without."""
    pair = authority.issue("gateway.test", file="asks")
    listen = [listener(pair), {"address": f"127.0.0.1:{free_port()}"}]
    gateway = await start_gateway(to_one(raw_backend.address, listen=listen))
    clients = [await secure(gateway), await connect(listen[1]["address"])]
    for client in clients:
        await client.send(request("/"))
        assert (await client.answer()).status == 200
    for each in listen:
        each["tls"] = {"certificates": [pair.section], "client_ca": str(authority.ca)}
    gateway.write(to_one(raw_backend.address, listen=listen))
    await gateway.reload()
    for client in clients:
        assert await client.ends() == b""
        await client.close()


async def test_the_gateway_says_what_it_has(
    start_gateway: StartGateway, raw_backend: RawBackend, authority: Authority
) -> None:
    pair = authority.issue("gateway.test", "*.gateway.test", file="said")
    gateway = await start_gateway(to_one(raw_backend.address, listen=[listener(pair)]))
    said = await status_of(gateway)
    assert "gateway.test, *.gateway.test" in said
    assert "89 days left" in said
