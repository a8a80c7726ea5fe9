"""Plain HTTP over TLS, end to end, with OpenSSL as the client."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal

import pytest
import pytest_asyncio

from tests.conftest import Backends, StartGateway
from tests.support.backends import Web
from tests.support.certificates import Authority
from tests.support.deadline import quiet_for
from tests.support.gateway import Gateway, route, to_one
from tests.support.plain import Do, RawBackend
from tests.support.ports import free_port
from tests.support.raw import connect, handshake, request
from tests.support.tls import TlsConnection, trusting

from .conftest import Secure
from .upgrades import upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
SUITES = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "p256"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "p256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "p256"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "rsa"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "rsa"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "rsa"),
]


def tls_to(backend: str, authority: Authority, **keys: object) -> dict[str, object]:
    """A configuration with a listener with TLS, and a plain one beside it."""
    pairs = [authority.issue("localhost", "gateway.test", kind=kind, file=kind).section for kind in ("p256", "rsa")]
    listen = [
        {"address": f"127.0.0.1:{free_port()}", "tls": {"certificates": pairs}},
        {"address": f"127.0.0.1:{free_port()}"},
    ]
    return {"listen": listen, **to_one(backend, **keys)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    start_shared_gateway: StartGateway, authority: Authority, web: Web, raw_backend: RawBackend
) -> Gateway:
    config = tls_to(web.address, authority, timeouts={"http_idle": "2s", "request_head": "5s"})
    config["upstreams"]["raw"] = {"backends": [raw_backend.address]}  # type: ignore[index]  # it is a mapping
    config["routes"].insert(0, route("raw", "raw"))  # type: ignore[attr-defined]  # it is a list
    return await start_shared_gateway(config)


async def closed(client: TlsConnection) -> None:
    """The gateway has ended the connection as TLS wants it."""
    assert await client.rest() == b""
    assert client.end == "close_notify"
    await client.shut.wait()


# --- requests and answers ---------------------------------------------------------------------------------------------


@VERSIONS
async def test_requests_on_a_kept_connection(secure: Secure, gateway: Gateway, version: str) -> None:
    before = await gateway.scrape()
    client = await secure(gateway, version)
    for number in range(3):
        await client.send(request(f"/{version}/{number}"))
        assert (await client.answer()).status == 200
    await gateway.logged(event="http", path=f"/{version}/2", status=200)
    scrape = await gateway.counts(before, "gateway_tls_handshakes_total", side="client", result="ok", version=version)
    name = "gateway_tls_handshake_duration_seconds_count"
    assert scrape.value(name, side="client") == before.value(name, side="client") + 1


@pytest.mark.parametrize(("suite", "kind"), SUITES)
async def test_suites_of_tls12(secure: Secure, gateway: Gateway, authority: Authority, suite: str, kind: str) -> None:
    client = await secure(gateway, context=trusting(authority.ca, "1.2", suite))
    assert (client.tls.cipher() or ("",))[0] == suite
    body = os.urandom(100_000)
    await client.send(request("/a/upload", f"Content-Length: {len(body)}", method="POST") + body)
    assert hashlib.sha256(body).hexdigest() in (await client.answer()).text


@VERSIONS
async def test_large_bodies_both_ways(secure: Secure, gateway: Gateway, web: Web, version: str) -> None:
    client = await secure(gateway, version)
    body = os.urandom(3_000_000)
    head = request("/a/upload", f"Content-Length: {len(body)}", method="POST")
    sending = asyncio.create_task(client.send(head + body))
    assert hashlib.sha256(body).hexdigest() in (await client.answer()).text
    await sending
    for query in ("size=5000000", "size=5000000&length=5000000"):
        await client.send(request(f"/a/download?{query}"))
        answer = await client.answer()
        assert (answer.status, len(answer.body)) == (200, 5_000_000)
        assert answer.body[: 256 * 256] == bytes(range(256)) * 256


@VERSIONS
async def test_a_client_that_reads_late(secure: Secure, gateway: Gateway, version: str) -> None:
    """What its socket does not take waits, and is not sealed twice."""
    client = await secure(gateway, version)
    client.raw.reader._transport.pause_reading()  # type: ignore[attr-defined]  # there is no public way
    await client.send(request("/a/download?size=20000000"))
    await quiet_for(0.3)  # until everything on the way is full
    client.raw.reader._transport.resume_reading()  # type: ignore[attr-defined]  # as above
    answer = await client.answer()
    assert answer.body == (bytes(range(256)) * 78126)[:20_000_000]


@VERSIONS
async def test_pipelined_requests(secure: Secure, gateway: Gateway, version: str) -> None:
    client = await secure(gateway, version)
    body = b"x" * 30_000
    post = request("/a/upload", f"Content-Length: {len(body)}", method="POST") + body
    await client.send((request("/one") + post) * 5)
    for _ in range(5):
        assert (await client.answer()).status == 200
        assert hashlib.sha256(body).hexdigest() in (await client.answer()).text


async def test_a_request_with_the_handshakes_last_message(gateway: Gateway, secure: Secure) -> None:
    """A client need not wait for the gateway's tickets."""
    client = await secure(gateway, "1.3", shake=False)
    await client.shake(early=request("/a/upload", "Content-Length: 100000", method="POST") + b"x" * 100_000)
    assert hashlib.sha256(b"x" * 100_000).hexdigest() in (await client.answer()).text


async def test_the_ticket_comes_with_the_first_answer(gateway: Gateway, secure: Secure) -> None:
    client = await secure(gateway, "1.3")
    session = client.tls.session
    assert session is None or not session.has_ticket
    await client.send(request("/a"))
    assert (await client.answer()).status == 200
    assert client.tls.session is not None
    assert client.tls.session.has_ticket


@VERSIONS
async def test_an_event_stream(secure: Secure, gateway: Gateway, web: Web, version: str) -> None:
    client = await secure(gateway, version)
    path = f"/{version}/sse"
    await client.send(request(path))
    head = await client.head()
    assert head.status == 200
    for number in range(3):
        web.events[path].put_nowait(f"event {number}")
        assert f"event {number}".encode() in await client.chunk()
    client.close_notify()
    await web.cancelled[path].wait()


@VERSIONS
async def test_an_answer_that_ends_with_its_connection(
    secure: Secure, gateway: Gateway, raw_backend: RawBackend, version: str
) -> None:
    raw_backend.scripts_by_target = {"/raw/till": (b"HTTP/1.1 200 OK\r\n\r\nall of it", Do.CLOSE)}
    client = await secure(gateway, version)
    await client.send(request("/raw/till"))
    answer = await client.answer()
    assert answer.body == b"all of it"
    assert client.end == "close_notify"


@VERSIONS
async def test_an_answer_that_breaks_off_is_not_ended(
    secure: Secure, gateway: Gateway, raw_backend: RawBackend, version: str
) -> None:
    raw_backend.scripts_by_target = {"/raw/till": (b"HTTP/1.1 200 OK\r\n\r\nhalf of", Do.RESET)}
    client = await secure(gateway, version)
    await client.send(request("/raw/till"))
    assert (await client.head()).status == 200
    await client.ends()
    assert client.end == "reset"


@VERSIONS
async def test_a_declined_upgrade(secure: Secure, gateway: Gateway, version: str) -> None:
    client = await secure(gateway, version)
    await client.send(handshake(f"/{version}/plain"))
    answer = await client.answer()
    assert answer.status == 200
    await closed(client)


async def test_what_the_backend_hears(secure: Secure, gateway: Gateway, raw_backend: RawBackend) -> None:
    client = await secure(gateway)
    await client.send(request("/raw/heard", "X-Client-Cert-Subject: CN=admin", "X_Client_Cert_Subject: CN=admin"))
    await client.answer()
    head = raw_backend.requests[-1].head
    assert head is not None
    assert head.value("x-forwarded-proto") == "https"
    assert b"CN=admin" not in head.raw


async def test_a_plain_listener_takes_no_word_about_certificates_either(
    gateway: Gateway, raw_backend: RawBackend
) -> None:
    client = await connect(gateway.config["listen"][1]["address"])
    await client.send(request("/raw/heard", "X-Client-Cert-San: DNS:admin", "X-Client-Cert-Fingerprint: admin"))
    await client.answer()
    await client.close()
    head = raw_backend.requests[-1].head
    assert head is not None
    assert head.value("x-forwarded-proto") == "http"
    assert b"admin" not in head.raw


@VERSIONS
@pytest.mark.parametrize("pace", [1, 7])
async def test_tcp_cuts_where_it_likes(secure: Secure, gateway: Gateway, version: str, pace: int) -> None:
    client = await secure(gateway, version, shake=False)
    client.pace = pace
    await client.shake()
    await client.send(request("/a/upload", "Content-Length: 300", method="POST") + b"x" * 300)
    assert hashlib.sha256(b"x" * 300).hexdigest() in (await client.answer()).text


@VERSIONS
async def test_records_of_one_byte(secure: Secure, gateway: Gateway, version: str) -> None:
    client = await secure(gateway, version)
    for byte in request("/a/upload", "Content-Length: 300", method="POST") + b"x" * 300:
        client.tls.write(bytes((byte,)))
    client.flush()
    assert hashlib.sha256(b"x" * 300).hexdigest() in (await client.answer()).text


# --- ends -------------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_an_idle_connection_is_closed(secure: Secure, gateway: Gateway, version: str) -> None:
    client = await secure(gateway, version)
    await client.send(request("/"))
    await client.answer()
    await closed(client)


@VERSIONS
async def test_the_client_closes_between_requests(secure: Secure, gateway: Gateway, version: str) -> None:
    client = await secure(gateway, version)
    await client.send(request("/"))
    await client.answer()
    client.close_notify()
    await closed(client)


@VERSIONS
async def test_a_refused_request(secure: Secure, gateway: Gateway, version: str) -> None:
    client = await secure(gateway, version)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert (await client.answer()).status == 400
    await closed(client)


@VERSIONS
@pytest.mark.parametrize("how", ["flipped", "unprotected", "too long"])
async def test_records_that_are_not_the_clients(secure: Secure, gateway: Gateway, version: str, how: str) -> None:
    """They end the connection with an alert; what came before is served."""
    client = await secure(gateway, version)
    await client.send(request("/before"))
    assert (await client.answer()).status == 200
    client.tls.write(request("/never"))
    record = bytearray(client.outgoing.read())
    if how == "flipped":
        record[-1] ^= 1
    elif how == "unprotected":
        record = bytearray(b"\x15\x03\x03\x00\x02\x01\x00")
    else:
        record = bytearray(b"\x17\x03\x03\x48\x01" + bytes(0x4801))
    client.raw.writer.write(record)
    await client.ends()
    assert client.end is not None
    assert "ALERT" in client.end or "RECORD" in client.end, client.end
    await client.shut.wait()


@VERSIONS
async def test_it_says_goodbye_when_it_stops(
    start_gateway: StartGateway, secure: Secure, authority: Authority, web: Web, version: str
) -> None:
    gateway = await start_gateway(tls_to(web.address, authority))
    idle, busy = await secure(gateway, version), await secure(gateway, version)
    await idle.send(request("/"))
    await idle.answer()
    path = f"/{version}/stopping/poll"
    await busy.send(request(path))
    await web.arrived[path].wait()
    gateway.term()
    await closed(idle)
    web.events[path].put_nowait("done")
    assert (await busy.answer()).text == "done"
    await closed(busy)
    await gateway.exits(0)


# --- not TLS ----------------------------------------------------------------------------------------------------------


async def test_plain_http_to_an_address_that_speaks_tls(gateway: Gateway) -> None:
    before = await gateway.scrape()
    client = await gateway.connect()
    await client.send(request("/"))
    answer = await client.answer()
    await client.close()
    assert answer.status == 400
    assert answer.head.value("content-type") == "text/plain; charset=utf-8"
    assert "https://" in answer.text
    labels = {"side": "client", "result": "plain_http", "version": "-"}
    await gateway.counts(before, "gateway_tls_handshakes_total", **labels)
    record = await gateway.logged(event="tls_handshake", client=client.name)
    assert (record["result"], record["server_name"]) == ("plain_http", None)


async def test_tls_to_an_address_that_speaks_plain_http(gateway: Gateway, authority: Authority) -> None:
    raw = await connect(gateway.config["listen"][1]["address"])
    client = TlsConnection(trusting(authority.ca), "gateway.test", raw)
    with pytest.raises(OSError, match=r"WRONG_VERSION_NUMBER|ended"):
        await client.shake()
    record = await gateway.logged(client=raw.name)
    assert "TLS, where plain HTTP is spoken" in record["reason"]
    await client.close()


# --- upgrades of the program ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds_idle", [pytest.param(0, marks=pytest.mark.either_build), 1.5])
async def test_idle_connections_move_to_the_new_program(
    start_gateway: StartGateway, secure: Secure, authority: Authority, web: Web, seconds_idle: float
) -> None:
    """With half a request, with half a record, and between two requests; a new session, and one that was used."""
    gateway = await start_gateway({"workers": 2, **tls_to(web.address, authority)})
    clients = [await secure(gateway, version) for version in ("1.2", "1.3") for _ in range(8)]
    for number, client in enumerate(clients):
        for _ in range(number % 3 + 1):
            await client.send(request("/"))
            assert (await client.answer()).status == 200
    whole = request("/a/upload", "Content-Length: 5", method="POST") + b"hello"
    rest = []
    for number, client in enumerate(clients):
        client.tls.write(whole)
        record = client.outgoing.read()
        cut = (0, 1, 30, len(record))[number % 4] if number % 4 != 3 else 0
        client.raw.writer.write(record[:cut])
        rest.append(record[cut:])
    await quiet_for(seconds_idle)  # so that the gateway has read what there is, or may have
    for _ in range(2 if seconds_idle == 0 else 1):
        await upgrade(gateway)
    for client, record in zip(clients, rest, strict=True):
        client.raw.writer.write(record)
        answer = await client.answer()
        assert hashlib.sha256(b"hello").hexdigest() in answer.text
        await client.send(whole)
        assert (await client.answer()).status == 200
    assert all(client.end is None for client in clients)


@pytest.mark.either_build
async def test_stop_says_goodbye_to_idle_connections(
    start_gateway: StartGateway, secure: Secure, authority: Authority, web: Web
) -> None:
    gateway = await start_gateway(tls_to(web.address, authority))
    client = await secure(gateway)
    await client.send(request("/"))
    await client.answer()
    gateway.process.signal(signal.SIGINT)
    await gateway.exits(0)
    assert client.end == "close_notify" or await client.rest() == b""
    assert client.end == "close_notify"
