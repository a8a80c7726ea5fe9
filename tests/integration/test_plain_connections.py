"""Connections of plain HTTP: reuse, logins bound to a connection, aged connections, stalled bodies, loops."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import StartGateway
from tests.support.deadline import SCALE, quiet_for
from tests.support.gateway import Gateway, route, to_one
from tests.support.plain import OK, Do, Link, Message, RawBackend, play, read_answer
from tests.support.ports import free_port
from tests.support.raw import handshake, request
from tests.support.wire import Wire, dial

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLACK_SECONDS = 1.5 * SCALE
WAYS = pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
BYTEWISE = pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
NEXT = request("/next")
numbers = itertools.count()


def ok(*fields: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "Content-Length: 2", "", "ok")).encode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, raw_backend: RawBackend) -> Gateway:
    return await start_shared_gateway(
        to_one(
            raw_backend.address,
            trusted_proxies=["127.0.0.1"],
            timeouts={"request_body": "500ms"},
        )
    )


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Gateway) -> AsyncIterator[Wire]:
    wire = await dial(gateway.address)
    yield wire
    wire.close()


@pytest_asyncio.fixture(loop_scope="module")
async def another(gateway: Gateway) -> AsyncIterator[Wire]:
    wire = await dial(gateway.address)
    yield wire
    wire.close()


async def ask(wire: Wire, sent: bytes) -> Message:
    await wire.send(sent)
    return await read_answer(wire, sent.split(b" ", 1)[0].decode())


def link_of(message: Message) -> Link:
    assert message.link is not None
    return message.link


# --- an idle connection of a backend that says something unasked is never used again ----------------------------------


@WAYS
@BYTEWISE
@pytest.mark.parametrize(
    "unasked",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON",
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 O",
        b"\r\n",
        b"\0",
    ],
    ids=["answer", "408", "100", "half a head", "empty line", "NUL"],
)
async def test_unrequested_bytes(
    gateway: Gateway, raw_backend: RawBackend, client: Wire, another: Wire, unasked: bytes, bytewise: bool, kept: bool
) -> None:
    answered = asyncio.Event()

    async def wait() -> bytes:
        await answered.wait()
        return unasked

    raw_backend.plays((OK, wait), bytewise=bytewise)
    if kept:
        assert (await ask(client, request("/before"))).body == b"/before"
    assert (await ask(client, request("/first"))).body == b"ok"
    answered.set()
    await raw_backend.closed()
    for wire in (another, client):
        assert (await ask(wire, NEXT)).body == b"/next"


@pytest.mark.parametrize("step", [Do.CLOSE, Do.RESET])
async def test_an_idle_connection_that_ends(
    gateway: Gateway, raw_backend: RawBackend, client: Wire, another: Wire, step: Do
) -> None:
    raw_backend.plays((OK, step))
    assert (await ask(client, request("/first"))).body == b"ok"
    await raw_backend.closed()
    for wire in (another, client):
        assert (await ask(wire, request("/next", "Content-Length: 0", method="POST"))).body == b"/next"


# --- credentials that a backend ties to its connection stay with the client that gave them ----------------------------


def challenge(*values: str) -> bytes:
    return ok(*(f"WWW-Authenticate: {value}" for value in values), status="401 Unauthorized")


@WAYS
@BYTEWISE
@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (["Authorization: NTLM T1"], [challenge("NTLM T2")]),
        (["Authorization: Negotiate T1"], [ok()]),
        (["Authorization: negotiate T1"], [challenge("negotiate T2")]),
        ([], [challenge("Basic realm=x", "NTLM")]),
        ([], [challenge('Basic realm="x, y", Negotiate')]),
        (["Authorization: Kerberos T1"], [ok("WWW-Authenticate: Kerberos T2")]),
    ],
    ids=["NTLM", "Negotiate", "lower case", "offered", "offered in a list", "Kerberos"],
)
async def test_a_login_of_a_connection(
    gateway: Gateway,
    raw_backend: RawBackend,
    client: Wire,
    another: Wire,
    sent: list[str],
    answers: list[bytes],
    bytewise: bool,
    kept: bool,
) -> None:
    """The first client's backend connection serves only that client, for as long as the client stays connected."""
    raw_backend.plays((*answers,), (OK,), bytewise=bytewise)
    if kept:
        assert (await ask(client, request("/before"))).body == b"/before"
    client.bytewise = bytewise
    assert (await ask(client, request("/me", *sent))).status in (200, 401)
    for _ in range(2):
        assert (await ask(another, request("/me"))).body == b"ok"
        assert (await ask(client, request("/me", "Authorization: NTLM T3"))).body == b"ok"
    login, *others = raw_backend.requests
    mine = link_of(login)
    assert [link_of(message) is mine for message in others] == [False, True, False, True]
    client.close()
    await mine.ends()
    assert (await ask(another, request("/me"))).body == b"ok"
    assert link_of(raw_backend.requests[-1]) is not mine


async def test_other_logins_do_not_take_a_connection(
    gateway: Gateway, raw_backend: RawBackend, client: Wire, another: Wire
) -> None:
    raw_backend.plays((challenge("Basic realm=x"),), (OK,))
    await ask(client, request("/me", "Authorization: Basic eDp5"))
    assert (await ask(another, request("/me"))).body == b"ok"
    first, second = raw_backend.requests
    assert link_of(first) is link_of(second)


# --- an aged connection is not used for what cannot be repeated -------------------------------------------------------


@pytest.mark.parametrize("field", ["Keep-Alive: timeout=1", "Keep-Alive: timeout=60", "X: y"])
async def test_an_order_over_an_aged_connection(
    gateway: Gateway, raw_backend: RawBackend, client: Wire, another: Wire, field: str
) -> None:
    """The order is sent once, over a fresh connection."""
    raw_backend.plays((ok(field),), (OK,))
    assert (await ask(client, request("/first"))).body == b"ok"
    link = link_of(raw_backend.requests[0])
    await quiet_for(1.1)  # RECENTLY_NS of the pool
    answer = await ask(another, request("/order", "Content-Length: 2", method="POST") + b"ab")
    assert (answer.status, answer.body) == (200, b"ok")
    (order,) = raw_backend.requests[1:]
    assert order.body == b"ab"
    assert link_of(order) is not link


@pytest.mark.parametrize("ends", [Do.CLOSE, Do.RESET])
@pytest.mark.parametrize(
    ("sent", "repeated"),
    [
        (request("/x"), True),
        (request("/x", method="HEAD"), True),
        (request("/x", method="DELETE"), True),
        (request("/x", "Content-Length: 0", method="PUT"), True),
        (request("/x", "Content-Length: 2", method="PUT") + b"ab", False),
        (request("/x", "Content-Length: 0", method="POST"), False),
        (request("/x", method="PATCH"), False),
        (request("/x", method="FROBNICATE"), False),
    ],
    ids=lambda value: value.split(b"\r\n\r\n")[0].split()[0].decode() if isinstance(value, bytes) else "",
)
async def test_a_used_connection_that_ends_without_an_answer(
    gateway: Gateway, raw_backend: RawBackend, client: Wire, sent: bytes, repeated: bool, ends: Do
) -> None:
    """An idempotent request without a body is sent once more (RFC 9110 section 9.2.2)."""
    raw_backend.plays((OK,), (ends,), (OK,))
    assert (await ask(client, request("/first"))).body == b"ok"
    answer = await ask(client, sent)
    assert answer.status == (200 if repeated else 502)
    assert len(raw_backend.requests) == (3 if repeated else 2)
    assert (await ask(client, NEXT)).body == b"/next"


async def test_a_fresh_connection_that_ends_without_an_answer(
    gateway: Gateway, raw_backend: RawBackend, client: Wire
) -> None:
    """Age cannot be the cause, so the request is not sent again."""
    raw_backend.plays((Do.CLOSE,), (OK,))
    assert (await ask(client, request("/x"))).status == 502
    assert len(raw_backend.requests) == 1


async def test_an_answer_that_was_begun_is_not_asked_for_again(
    gateway: Gateway, raw_backend: RawBackend, client: Wire
) -> None:
    raw_backend.plays((OK,), (b"H", 0.05, Do.RESET), (OK,))
    assert (await ask(client, request("/first"))).body == b"ok"
    assert (await ask(client, request("/x"))).status == 502
    assert len(raw_backend.requests) == 2


# --- a list of addresses may carry ports, and IPv4 written as IPv6 ----------------------------------------------------


@WAYS
@BYTEWISE
@pytest.mark.either_build
@pytest.mark.parametrize(
    ("given", "client_is"),
    [
        ("203.0.113.7:51008", "203.0.113.7"),
        ("203.0.113.7", "203.0.113.7"),
        ("[2001:db8::5]:443", "2001:db8::5"),
        ("[2001:db8::5]", "2001:db8::5"),
        ("2001:db8::5", "2001:db8::5"),
        ("::ffff:10.0.0.6", "10.0.0.6"),
        ("[::ffff:10.0.0.6]:80", "10.0.0.6"),
        ("198.51.100.1, 203.0.113.7:1, 127.0.0.1:2", "203.0.113.7"),
    ],
)
async def test_who_a_proxy_says_the_client_is(
    gateway: Gateway, raw_backend: RawBackend, given: str, client_is: str, bytewise: bool, kept: bool
) -> None:
    raw_backend.plays((OK,), bytewise=bytewise)
    path = f"/who/{next(numbers)}"
    sent = request(path, f"X-Forwarded-For: {given}")
    assert (await play(gateway.address, sent, kept=kept, bytewise=bytewise)).answers[0].status == 200
    assert (await gateway.logged(event="http", path=path))["client"] == client_is
    assert raw_backend.requests[0].value("X-Forwarded-For") == f"{given}, 127.0.0.1"


# --- a body that stops coming -----------------------------------------------------------------------------------------


PARTS = [
    ("Content-Length: 10", b"ab"),
    ("Content-Length: 10", b""),
    ("Transfer-Encoding: chunked", b"2\r\nab\r\n"),
    ("Transfer-Encoding: chunked", b"2\r\nab\r\n0\r\n"),
    ("Transfer-Encoding: chunked", b"2"),
]


@WAYS
@BYTEWISE
async def test_a_body_that_stops_coming(gateway: Gateway, raw_backend: RawBackend, bytewise: bool, kept: bool) -> None:
    raw_backend.plays((OK,), bytewise=bytewise)

    async def upload(field: str, part: bytes) -> None:
        wire = await dial(gateway.address)
        try:
            if kept:
                assert (await ask(wire, request("/before"))).body == b"/before"
            wire.bytewise = bytewise
            await wire.send(request("/upload", field, method="POST") + part)
            start = time.monotonic()
            assert (await read_answer(wire)).status == 408
            assert 0.4 < time.monotonic() - start < 0.5 + SLACK_SECONDS
            assert await wire.rest() == b""
            assert wire.ended == "fin"
        finally:
            wire.close()

    await asyncio.gather(*(upload(field, part) for field, part in PARTS))
    assert len(raw_backend.requests) == len(PARTS)
    for message in raw_backend.requests:
        await link_of(message).ends()
        assert message.cut


# --- a request that comes back ----------------------------------------------------------------------------------------


@pytest.mark.either_build
@pytest.mark.parametrize("hops", [1, 2])
async def test_a_request_that_comes_back(start_gateway: StartGateway, hops: int) -> None:
    """It ends within a few hops."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(hops)]
    gateways = [
        await start_gateway(
            {
                "listen": [{"address": address}],
                "upstreams": {"next": {"backends": [addresses[(number + 1) % hops]]}},
                "routes": [route("all", "next", "/")],
            }
        )
        for number, address in enumerate(addresses)
    ]
    rounds = [
        ("GET", request("/")),
        ("POST", request("/", "Content-Length: 2", method="POST") + b"ab"),
        ("GET", handshake("/")),
    ]
    for method, sent in rounds:
        seen = await play(addresses[0], sent, (method,), behind=0)
        assert seen.answers[0].status == 508
    assert len(gateways[0].log_records()) <= 2 * len(rounds)


async def test_a_mark_of_another_gateway_is_passed_on(gateway: Gateway, raw_backend: RawBackend, client: Wire) -> None:
    raw_backend.plays((OK,))
    assert (await ask(client, request("/", "CDN-Loop: gateway-0, other; v=1"))).status == 200
    (got,) = raw_backend.requests
    assert got.head is not None
    assert got.head.values("CDN-Loop")[0] == "gateway-0, other; v=1"
    assert len(got.head.values("CDN-Loop")) == 2
