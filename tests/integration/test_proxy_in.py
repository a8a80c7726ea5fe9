"""Listeners that take PROXY headers: who the client is, from whom that is believed, and what everything else gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, StartGateway
from tests.protocol.proxy import (
    LOCAL,
    PROXY,
    SIGNATURE,
    TCP4,
    UNIX_STREAM,
    UNSPEC,
    block,
    v1,
    v2,
    vector,
    with_checksum,
)
from tests.support.backends import Web
from tests.support.certificates import Authority
from tests.support.deadline import turn, within
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import Gateway, route, to_one
from tests.support.ports import free_port
from tests.support.proxied import connect_from
from tests.support.raw import Connection, connect, handshake, request
from tests.support.tls import TlsConnection, trusting

from .upgrades import upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROXY_HOST, ELSEWHERE = "127.0.0.1", "127.0.0.9"
CLIENT, SERVER = "203.0.113.7", "192.0.2.1"
CLIENT6, SERVER6 = "2001:db8:1::7", "2001:db8:1::1"
CDN = "198.51.100.4"
"""A client that is itself a trusted proxy."""

NOT_ACCEPTED = "which is not accepted from this address"
Dial = Callable[..., Awaitable[Connection]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, web: Web) -> Gateway:
    """Its second listener takes no PROXY headers."""
    return await start_shared_gateway(
        to_one(
            web.address,
            routes=[route("near", "one", allow=["127.0.0.0/8"]), route("all", "one", "/")],
            listen=[
                {"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True},
                {"address": f"127.0.0.1:{free_port()}"},
            ],
            trusted_proxies=[PROXY_HOST, CDN],
            timeouts={"request_head": "600ms"},
        )
    )


@pytest_asyncio.fixture(loop_scope="module")
async def dial(gateway: Gateway) -> AsyncIterator[Dial]:
    """Opens connections to the gateway from an address of choice, the trusted proxy's if none is given."""
    opened = []

    async def open_from(host: str = PROXY_HOST, to: int = 0) -> Connection:
        connection = await connect_from(host, gateway.config["listen"][to]["address"])
        opened.append(connection)
        return connection

    yield open_from
    for connection in opened:
        await connection.close()


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a request that the backend describes."""
    return dict(json.loads(body)["headers"])


async def forwarded(client: Connection, data: bytes) -> str:
    """What the backend is told of who sent a plain request."""
    await client.send(data)
    answer = await client.answer()
    assert answer.status == 200, answer
    return fields_of(answer.body)["X-Forwarded-For"]


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("header", "host"),
    [
        (v1(CLIENT, SERVER), CLIENT),
        (v1(CLIENT6, SERVER6), CLIENT6),
        (v2(CLIENT, SERVER), CLIENT),
        (v2(f"::ffff:{CLIENT}", SERVER6), CLIENT),
        (
            with_checksum(v2(CLIENT6, SERVER6, vectors=vector(0x02, b"chat.example") + vector(0xEA, b"\1vpce-1"))),
            CLIENT6,
        ),
    ],
)
async def test_the_client_is_whom_the_header_names(
    gateway: Gateway, dial: Dial, header: bytes, host: str, bytewise: bool
) -> None:
    named = f"[{host}]:51000" if ":" in host else f"{host}:51000"
    path = f"/who/{random.randrange(10**9)}"
    plain, tunnel = await dial(), await dial()
    for client, data in ((plain, request(path, "X-Forwarded-For: 1.2.3.4")), (tunnel, handshake(f"{path}/ws"))):
        whole = header + data
        for piece in [whole[at : at + 1] for at in range(len(header) + 3)] if bytewise else []:
            await client.send(piece)
        await client.send(whole[len(header) + 3 :] if bytewise else whole)
    answer = await plain.answer()
    assert fields_of(answer.body)["X-Forwarded-For"] == host
    assert (await tunnel.head()).status == 101
    await tunnel.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    found = [each for each in (await gateway.api("tunnels"))["tunnels"] if each["path"] == f"{path}/ws"]
    assert [each["client_address"] for each in found] == [named]
    # It holds for all that follows on the connection.
    assert await forwarded(plain, request(f"{path}/again")) == host
    await tunnel.close()
    for event, of in (
        ("http", path),
        ("http", f"{path}/again"),
        ("handshake", f"{path}/ws"),
        ("tunnel_end", f"{path}/ws"),
    ):
        assert (await gateway.logged(event=event, path=of))["client"] == named


@pytest.mark.either_build
async def test_a_client_that_is_a_trusted_proxy_names_its_own(gateway: Gateway, dial: Dial) -> None:
    client = await dial()
    data = request("/cdn", "X-Forwarded-For: 192.0.2.200", "X-Request-Id: from-the-cdn")
    assert await forwarded(client, v2(CDN, SERVER) + data) == f"192.0.2.200, {CDN}"
    record = await gateway.logged(event="http", path="/cdn")
    assert (record["client"], record["request_id"]) == ("192.0.2.200", "from-the-cdn")


@pytest.mark.either_build
@pytest.mark.parametrize(
    ("header", "believed"),
    [
        (block(LOCAL, UNSPEC), True),
        (block(LOCAL, TCP4, bytes(12)), True),
        (b"PROXY UNKNOWN\r\n", False),
        (b"PROXY UNKNOWN ::1 ::1 1 1\r\n", False),
        (block(PROXY, UNSPEC), False),
        (block(PROXY, UNIX_STREAM, bytes(216)), False),
    ],
)
async def test_without_a_client_the_proxy_stands_for_it(
    gateway: Gateway, dial: Dial, header: bytes, believed: bool
) -> None:
    """But what it says in X-Forwarded-For counts only if it speaks for itself."""
    client = await dial()
    path = f"/nobody/{header.hex()}"
    data = request(path, "X-Forwarded-For: 192.0.2.200")
    assert await forwarded(client, header + data) == (f"192.0.2.200, {PROXY_HOST}" if believed else PROXY_HOST)
    assert (await gateway.logged(event="http", path=path))["client"] == ("192.0.2.200" if believed else client.name)
    # A reload looks at every peer again.
    await gateway.reload()
    assert await forwarded(client, data) == (f"192.0.2.200, {PROXY_HOST}" if believed else PROXY_HOST)


@pytest.mark.either_build
async def test_a_reload_keeps_the_clients_names(gateway: Gateway, dial: Dial) -> None:
    client = await dial()
    assert await forwarded(client, v1(CLIENT, SERVER) + request("/before")) == CLIENT
    await gateway.reload()
    assert await forwarded(client, request("/behind")) == CLIENT


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (block(LOCAL, UNSPEC), 200),  # the proxy is the client
        (v1("127.0.0.8", SERVER), 200),
        (v1(CLIENT, SERVER), 403),
        (b"PROXY UNKNOWN\r\n", 403),
        (block(PROXY, UNSPEC), 403),
        (block(PROXY, UNIX_STREAM, bytes(216)), 403),
    ],
)
async def test_a_client_without_an_address_is_not_allowed_for_that_of_the_proxy(
    dial: Dial, header: bytes, status: int
) -> None:
    client = await dial()
    await client.send(header + request("/near/x"))
    assert (await client.answer()).status == status


# --- from elsewhere ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [v1(CLIENT, SERVER), v2(CLIENT, SERVER), b"PROXY UNKNOWN\r\n", block(LOCAL, UNSPEC)])
@pytest.mark.parametrize(("host", "to"), [(ELSEWHERE, 0), (ELSEWHERE, 1), (PROXY_HOST, 1)])
async def test_the_same_bytes_from_elsewhere_are_a_400(
    gateway: Gateway, dial: Dial, header: bytes, host: str, to: int
) -> None:
    """From another peer, or on a listener that takes no PROXY headers."""
    before = await gateway.scrape()
    client = await dial(host, to)
    await client.send(header + handshake("/spoofed"))
    answer = await client.answer()
    assert answer.status == 400
    assert "PROXY header" in answer.text
    assert await client.ends() == b""
    record = await gateway.logged(client=client.name, result="bad_request")
    assert record["status"] == 400
    await gateway.counts(before, "gateway_handshakes_total", result="bad_request")


async def test_peers_that_are_no_proxies_are_served_as_ever(gateway: Gateway, dial: Dial) -> None:
    client = await dial(ELSEWHERE)
    assert await forwarded(client, request("/plain", "X-Forwarded-For: 1.2.3.4")) == ELSEWHERE
    assert await forwarded(await dial(PROXY_HOST, 1), request("/plain", "X-Forwarded-For: 1.2.3.4")) == (
        f"1.2.3.4, {PROXY_HOST}"
    )


# --- required ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [request("/"), handshake("/"), b"Px", b"\r\n\r\nGET / HTTP/1.1\r\n", b"proxy TCP4 "])
async def test_a_proxy_without_a_header_is_refused(gateway: Gateway, dial: Dial, data: bytes) -> None:
    before = await gateway.scrape()
    client = await dial()
    start = len(gateway.stderr.lines)
    await client.send(data)
    answer = await client.answer()
    assert answer.status == 400
    assert answer.text.startswith("400 Bad Request: no PROXY header: ")
    assert await client.ends() == b""
    record = await gateway.logged(client=client.name)
    assert (record["event"], record["result"], record["status"]) == ("handshake", "bad_request", 400)
    assert record["reason"] == "no PROXY header"
    await gateway.counts(before, "gateway_handshakes_total", result="bad_request")
    assert not any("Traceback" in line for line in gateway.stderr.lines[start:])


TLS_HELLO = bytes.fromhex("160301006a0100006603030000") + bytes(100)


@pytest.mark.parametrize("data", [TLS_HELLO, b"\0", b"\x80\x01", b" GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n\0\r\nQUIX"])
async def test_what_is_no_http_is_closed(gateway: Gateway, dial: Dial, data: bytes) -> None:
    before = await gateway.scrape()
    client = await dial()
    await client.send(data)
    assert await client.ends() == b""
    record = await gateway.logged(client=client.name)
    assert (record["result"], record["status"], record["reason"]) == ("bad_request", None, "no PROXY header")
    await gateway.counts(before, "gateway_handshakes_total", result="bad_request")


@pytest.mark.either_build
async def test_the_log_says_what_to_do(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        to_one(
            "127.0.0.1:1",
            listen=[{"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True}],
            trusted_proxies=[PROXY_HOST],
        )
    )
    for _ in range(3):
        client = await connect(gateway.address)
        await client.send(request("/"))
        assert (await client.answer()).status == 400
        await client.close()
    line = await gateway.stderr.containing("refused a connection from trusted proxy 127.0.0.1:")
    assert line.endswith("no PROXY header; have the proxy send one, or remove `proxy_protocol` from the listener")
    assert sum("refused a connection" in line for line in gateway.stderr.lines) == 1


async def test_a_check_of_the_port_is_no_fault(gateway: Gateway, dial: Dial) -> None:
    """As load balancers make it: they connect and go away, by FIN or reset."""
    before = await gateway.scrape()
    start, names = len(gateway.stdout.lines), []
    for _ in range(3):
        fin, reset = await dial(), await dial()
        names += [fin.name, reset.name]
        fin.half_close()
        assert await fin.ends() == b""
        reset.reset()
    assert await forwarded(await dial(), v1(CLIENT, SERVER) + request("/last")) == CLIENT
    await gateway.logged(event="http", path="/last")
    assert not [line for line in gateway.stdout.lines[start:] if json.loads(line)["client"] in names]
    now = await gateway.scrape()
    name = "gateway_handshakes_total"
    assert now.value(name) == before.value(name)


@pytest.mark.parametrize("data", [b"P", b"PROXY TCP4 203.0.113.7 ", SIGNATURE, v2(CLIENT, SERVER)[:-1]])
@pytest.mark.parametrize("ending", ["fin", "silence"])
async def test_half_a_header(gateway: Gateway, dial: Dial, data: bytes, ending: str) -> None:
    client = await dial()
    await client.send(data)
    begun = time.monotonic()
    if ending == "fin":
        client.half_close()
    assert await client.ends() == b""
    record = await gateway.logged(client=client.name)
    if ending == "fin":
        assert record["result"] == "bad_request"
        assert record["reason"] == "the connection ended within a PROXY header"
    else:
        assert time.monotonic() - begun > 0.3
        assert record["result"] == "timeout"
        assert record["reason"] == "the PROXY header did not come in time"


async def test_silence_is_closed_without_a_word(gateway: Gateway, dial: Dial) -> None:
    client = await dial()
    assert await client.ends() == b""
    assert not gateway.log_records(client=client.name)


def malformed(chance: random.Random) -> bytes:
    """A header with something wrong in it, and a request behind it."""
    good = chance.choice(
        [
            v1(CLIENT, SERVER),
            v1(CLIENT6, SERVER6),
            v2(CLIENT, SERVER, vectors=vector(0x04, b"abc")),
            with_checksum(v2(CLIENT, SERVER)),
            with_checksum(v2(CLIENT6, SERVER6, vectors=vector(0x20, bytes(8)))),
        ]
    )
    data = bytearray(good)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        how = chance.randrange(4)
        if how == 0:
            data[at] = chance.randrange(256)
        elif how == 1:
            del data[at : at + chance.randint(1, 5)]
        elif how == 2:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 5)))
        else:
            data[at:at] = chance.choice([b"\r\n", b" ", b"\0", b"PROXY ", SIGNATURE, b"65536", b"\xff" * 40])
    return bytes(data)


async def test_200_malformed_headers(gateway: Gateway, dial: Dial) -> None:
    """Each is closed without an answer, or gets 400 if it looks like HTTP; some are headers after all."""
    chance = random.Random(10)
    (pid,) = await gateway.worker_pids()
    outcomes: dict[str, int] = {}

    async def send(data: bytes) -> None:
        client = await dial()
        await client.send(data + request("/malformed"))
        with contextlib.suppress(OSError):  # the gateway may have reset the connection already
            client.half_close()
        said = await client.ends()
        status = said[9:12].decode() if said else "closed"
        outcomes[status] = outcomes.get(status, 0) + 1
        looks_like_http = data.lstrip(b"\r\n")[:1].isalpha() and not data.startswith((b"PROXY ", SIGNATURE))
        assert status in ("400",) if looks_like_http else ("closed", "200", "400"), (data, said)

    for _ in range(10):
        await asyncio.gather(*(send(malformed(chance)) for _ in range(20)))
    assert sum(outcomes.values()) == 200
    assert outcomes["closed"] > 100, outcomes
    assert outcomes["400"] > 5, outcomes
    assert await gateway.worker_pids() == [pid]
    assert await forwarded(await dial(), v1(CLIENT, SERVER) + request("/behind")) == CLIENT


# --- many, moved, ended -----------------------------------------------------------------------------------------------


@pytest.mark.either_build
async def test_many_at_once_are_not_mixed_up(start_gateway: StartGateway, web: Web) -> None:
    gateway = await start_gateway(
        to_one(
            web.address,
            workers=2,
            listen=[{"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True}],
            trusted_proxies=[PROXY_HOST],
        )
    )
    chance = random.Random(5)

    async def one(number: int) -> None:
        host = f"203.0.{number // 250}.{number % 250}"
        header = (v1, v2)[number % 2](host, SERVER)
        client = await connect(gateway.address)
        cut = chance.randrange(len(header))
        await client.send(header[:cut])
        await turn()
        await client.send(header[cut:] + request(f"/{number}"))
        assert fields_of((await client.answer()).body)["X-Forwarded-For"] == host
        assert await forwarded(client, request(f"/{number}/again")) == host
        await client.close()

    for start in range(0, 1000, 250):
        await asyncio.gather(*(one(number) for number in range(start, start + 250)))


@pytest.mark.either_build
async def test_an_upgrade_moves_the_name_with_the_connection(start_gateway: StartGateway, web: Web) -> None:
    gateway = await start_gateway(
        to_one(
            web.address,
            listen=[{"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True}],
            trusted_proxies=[PROXY_HOST],
            timeouts={"request_head": "5m"},
        )
    )
    named, unnamed, begun = [await connect(gateway.address) for _ in range(3)]
    assert await forwarded(named, v2(CLIENT6, SERVER6) + request("/before")) == CLIENT6
    assert await forwarded(unnamed, b"PROXY UNKNOWN\r\n" + request("/before")) == PROXY_HOST
    header = v2(CLIENT, SERVER)
    await begun.send(header[:20])  # it stays with the old worker until it is whole
    await upgrade(gateway, wait=False)
    spoofed = "X-Forwarded-For: 1.2.3.4"
    assert await forwarded(named, request("/behind", spoofed)) == CLIENT6
    assert await forwarded(unnamed, request("/behind", spoofed)) == PROXY_HOST
    assert (await gateway.logged(event="http", path="/behind"))["client"] == f"[{CLIENT6}]:51000"
    assert await forwarded(begun, header[20:] + request("/whole")) == CLIENT
    for client in (named, unnamed, begun):
        await client.close()


@pytest.mark.either_build
async def test_a_reload_turns_it_on_and_off(start_gateway: StartGateway, web: Web) -> None:
    listen = [{"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True}]
    gateway = await start_gateway(to_one(web.address, listen=listen, trusted_proxies=[PROXY_HOST]))
    kept, begun = await connect(gateway.address), await connect(gateway.address)
    header = v1(CLIENT, SERVER)
    assert await forwarded(kept, header + request("/on")) == CLIENT
    await begun.send(header[:10])

    async def reload(**keys: Any) -> None:
        gateway.config["listen"][0]["proxy_protocol"] = keys.pop("on")
        gateway.write(to_one(web.address, **keys))
        await gateway.reload()

    await reload(on=False)
    assert await forwarded(kept, request("/off")) == CLIENT
    assert await forwarded(begun, header[10:] + request("/begun")) == CLIENT
    off = await connect(gateway.address)
    assert await forwarded(off, request("/off")) == PROXY_HOST
    await reload(on=True, trusted_proxies=[PROXY_HOST])
    assert await forwarded(off, request("/on-again")) == PROXY_HOST
    on = await connect(gateway.address)
    assert await forwarded(on, header + request("/on-again")) == CLIENT
    for client in (kept, begun, off, on):
        await client.close()


@pytest.mark.either_build
async def test_a_drain_does_not_wait_for_headers(start_gateway: StartGateway, web: Web) -> None:
    gateway = await start_gateway(
        to_one(
            web.address,
            listen=[{"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True}],
            trusted_proxies=[PROXY_HOST],
            drain={"period": "1s"},
        )
    )
    silent, begun = await connect(gateway.address), await connect(gateway.address)
    await begun.send(b"PROXY TCP4 ")
    last = await connect(gateway.address)
    assert await forwarded(last, v1(CLIENT, SERVER) + request("/")) == CLIENT  # so those before were accepted
    gateway.term()
    for client in (silent, begun, last):
        assert await client.ends() == b""
        await client.close()
    await gateway.exits(0)


@pytest.mark.either_build
async def test_on_a_unix_socket(start_gateway: StartGateway, web: Web, tmp_path: Path) -> None:
    """Its peers are trusted without being listed."""
    front = f"unix:{tmp_path / 'front.sock'}"
    gateway = await start_gateway(to_one(web.address, listen=[{"address": front, "proxy_protocol": True}]))
    named, unnamed, bare = [await connect(front) for _ in range(3)]
    assert await forwarded(named, v2(CLIENT, SERVER) + request("/named")) == CLIENT
    assert (await gateway.logged(event="http", path="/named"))["client"] == f"{CLIENT}:51000"
    spoofed = request("/unnamed", "X-Forwarded-For: 1.2.3.4")
    assert await forwarded(unnamed, b"PROXY UNKNOWN\r\n" + spoofed) == "unix:"
    assert (await gateway.logged(event="http", path="/unnamed"))["client"] == "unix"
    await bare.send(request("/bare"))
    assert (await within(bare.answer(), "an answer")).status == 400
    for client in (named, unnamed, bare):
        await client.close()


# --- before TLS -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_it_precedes_tls(start_gateway: StartGateway, web: Web, tmp_path: Path, version: str) -> None:
    authority = Authority(tmp_path)
    tls = {"certificates": [authority.issue("localhost").section]}
    listen = [{"address": f"127.0.0.1:{free_port()}", "proxy_protocol": True, "tls": tls}]
    gateway = await start_gateway(to_one(web.address, listen=listen, trusted_proxies=[PROXY_HOST]))
    context = trusting(authority.ca, version)

    async def shaken(header: bytes, host: str = PROXY_HOST, early: bytes = b"") -> TlsConnection:
        raw = await connect_from(host, gateway.address)
        await raw.send(header[:20])
        raw.writer.write(header[20:])  # its end and the ClientHello come together
        client = TlsConnection(context, "localhost", raw)
        try:
            await client.shake(early)
        except BaseException:
            await raw.close()
            raise
        return client

    plain = await shaken(v2(CLIENT, SERVER), early=request("/plain"))
    fields = fields_of((await plain.answer()).body)
    assert (fields["X-Forwarded-For"], fields["X-Forwarded-Proto"]) == (CLIENT, "https")
    assert await forwarded(plain, request("/again")) == CLIENT
    await gateway.reload()
    assert await forwarded(plain, request("/reloaded")) == CLIENT
    tunnel = await shaken(with_checksum(v2(CLIENT6, SERVER6)))
    await tunnel.send(handshake("/a/ws"))
    assert (await tunnel.head()).status == 101
    await tunnel.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    (found,) = (await gateway.api("tunnels"))["tunnels"]
    assert found["client_address"] == f"[{CLIENT6}]:51000"
    elsewhere = await shaken(b"", ELSEWHERE)
    assert await forwarded(elsewhere, request("/elsewhere")) == ELSEWHERE
    for client in (plain, tunnel, elsewhere):
        await client.close()
    for host in (PROXY_HOST, ELSEWHERE):
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await shaken(v1(CLIENT, SERVER)[:-2] + b" 1\r\n", host)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await shaken(b"")
    record = await gateway.logged(event="handshake", reason="no PROXY header")
    assert (record["result"], record["status"]) == ("bad_request", None)
