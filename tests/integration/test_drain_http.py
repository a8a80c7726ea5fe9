"""Plain HTTP in a drain: requests in flight end properly, idle connections are closed, what is new goes elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted
from tests.support.deadline import SCALE, eventually, within
from tests.support.gateway import Gateway, route, to_one
from tests.support.raw import Connection, handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

AT_ONCE_SECONDS = 8 * SCALE
SHUTTING_DOWN = "this gateway is shutting down"


async def term_and_wait(gateway: Gateway, open_connection: Open) -> None:
    """TERM, and wait until every worker drains: then it closes the idle connections that it has."""
    idle = [await open_connection(gateway) for _ in range(8 * gateway.config["workers"])]
    for connection in idle:
        await connection.send(request("/a/x"))
        assert (await connection.answer()).status == 200
    gateway.term()
    for connection in idle:
        assert await connection.rest() == b""


# --- the gateway ------------------------------------------------------------------------------------------------------


async def test_requests_in_flight_end_properly(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """A poll, an upload and a stream; what their clients ask for next gets no answer, as they are told to close."""
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address, drain={"period": "30s"}))
    idle, unused, poll, upload, stream = [await open_connection(gateway) for _ in range(5)]
    await idle.send(request("/a/x"))
    assert (await idle.answer()).head.value("Connection") is None
    await poll.send(request("/a/poll") + request("/a/ahead"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")
    await upload.send(request("/a/upload", "Content-Length: 6", method="POST") + b"abc")
    await within(web.arrived["/a/upload"].wait(), "the upload at the backend")
    await stream.send(request("/a/sse"))
    assert (await stream.head()).status == 200
    start = time.monotonic()
    gateway.term()
    for connection in (idle, unused):
        assert await connection.rest(AT_ONCE_SECONDS) == b""  # FIN, and no word
    web.events["/a/poll"].put_nowait("news")
    await upload.send(b"def")
    for connection, text in ((poll, "news"), (upload, f'"{hashlib.sha256(b"abcdef").hexdigest()}"')):
        answer = await connection.answer()
        assert (answer.status, answer.head.value("Connection")) == (200, "close")
        assert text in answer.text
        assert await connection.ends(AT_ONCE_SECONDS) == b""
    web.events["/a/sse"].put_nowait("the last")
    web.events["/a/sse"].put_nowait(None)
    assert await stream.chunked() == b"data: the last\n\n"
    assert await stream.ends(AT_ONCE_SECONDS) == b""
    await gateway.exits(0)
    assert time.monotonic() - start < 25 * SCALE  # it does not wait for the period to be over
    records = {record["path"]: record for record in gateway.log_records(event="http")}
    assert records.keys() == {"/a/x", "/a/poll", "/a/upload", "/a/sse"}
    assert {(record["status"], record["initiator"]) for record in records.values()} == {(200, None)}
    assert not web.arrived["/a/ahead"].is_set()


async def test_what_comes_new_is_refused_while_requests_are_in_flight(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    web = await backends.web()
    gateway = await start_gateway({"workers": 2, **to_one(web.address, drain={"period": "30s"})})
    polls = [await open_connection(gateway) for _ in range(16)]
    for number, poll in enumerate(polls):
        await poll.send(request(f"/{number}/poll"))
        await within(web.arrived[f"/{number}/poll"].wait(), "the poll at the backend")
    before = await gateway.scrape()
    await term_and_wait(gateway, open_connection)
    for head in (request("/a/x"), request("/a/upload", "Content-Length: 6", method="POST"), handshake("/a/ws")):
        client = await open_connection(gateway)
        await client.send(head)
        answer = await client.answer()
        assert (answer.status, answer.head.value("Retry-After")) == (503, "5")
        assert answer.head.value("Connection") == "close"
        assert SHUTTING_DOWN in answer.text
        assert await client.ends() == b""
        record = await gateway.logged(client=client.name)
        assert (record["status"], record["reason"]) == (503, SHUTTING_DOWN)
    await gateway.counts(before, "gateway_http_requests_total", 2, code="503")
    for number, poll in enumerate(polls):
        web.events[f"/{number}/poll"].put_nowait(f"{number}")
        assert (await poll.answer()).text == f"{number}"
    await gateway.exits(0)


async def test_whoever_connects_has_time_to_ask(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """Closed at once, as idle, it would not be told where it stands."""
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address, drain={"period": "30s"}))
    poll = await open_connection(gateway)
    await poll.send(request("/a/poll"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")
    await term_and_wait(gateway, open_connection)
    slow, silent = await open_connection(gateway), await open_connection(gateway)
    assert await slow.is_quiet(0.3)
    await slow.send(request("/a/x"))
    assert (await slow.answer()).status == 503
    assert await silent.rest(AT_ONCE_SECONDS) == b""
    web.events["/a/poll"].put_nowait("news")
    assert (await poll.answer()).text == "news"
    await gateway.exits(0)


async def test_requests_that_do_not_end_are_cut_when_the_period_is_over(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """What has no answer yet gets one; of the others the log says why they were cut."""
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address, drain={"period": "1s"}))
    poll, stream = await open_connection(gateway), await open_connection(gateway)
    await poll.send(request("/a/poll"))
    await within(web.arrived["/a/poll"].wait(), "the poll at the backend")
    await stream.send(request("/a/sse"))
    assert (await stream.head()).status == 200
    start = time.monotonic()
    gateway.term()
    answer = await poll.answer()
    assert time.monotonic() - start > 0.9
    assert (answer.status, answer.head.value("Retry-After")) == (503, "5")
    assert SHUTTING_DOWN in answer.text
    assert await stream.ends() == b""  # and no last chunk, which would make it look whole
    for path in ("/a/poll", "/a/sse"):
        await within(web.cancelled[path].wait(), "the backend's end of it", AT_ONCE_SECONDS)
    await gateway.exits(0)
    found = {record["path"]: record for record in gateway.log_records(event="http")}
    assert {path: (record["status"], record["initiator"], record["cause"]) for path, record in found.items()} == {
        "/a/poll": (503, "gateway", "drain"),
        "/a/sse": (200, "gateway", "drain"),
    }
    assert {record["backend"] for record in found.values()} == {web.address}


# --- a backend --------------------------------------------------------------------------------------------------------


class Kept:
    """A backend that answers every request with its name, and keeps its connections."""

    def __init__(self, backend: Scripted, name: str) -> None:
        self.address = backend.address
        self.requests = 0
        self.open = 0
        self._name = name.encode()
        backend.plays(self._script)

    async def _script(self, connection: Connection) -> None:
        self.open += 1
        try:
            while head := await connection.reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                login = b"WWW-Authenticate: NTLM x\r\n" if b"/login" in head else b""
                await connection.send(b"HTTP/1.1 200 OK\r\n%bContent-Length: 1\r\n\r\n%b" % (login, self._name))
        except asyncio.IncompleteReadError:
            pass
        finally:
            self.open -= 1


async def two_kept(backends: Backends) -> tuple[Kept, Kept]:
    return Kept(await backends.scripted(), "1"), Kept(await backends.scripted(), "2")


def of_both(*both: Kept) -> dict[str, object]:
    upstream = {"backends": [each.address for each in both], "balance": "round_robin"}
    return {"upstreams": {"two": upstream}, "routes": [route("all", "two", "/")]}


async def drain_backend(gateway: Gateway, backend: Kept) -> None:
    assert (await gateway.post(f"drain?backend={backend.address}"))[0] == 202
    await gateway.until(
        lambda scrape: scrape.value("gateway_backend_drained", backend=backend.address) == 1, "the backend's drain"
    )


async def test_a_drained_backends_connections_are_closed(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    one, two = await two_kept(backends)
    gateway = await start_gateway(of_both(one, two))
    client = await open_connection(gateway)
    for _ in range(4):
        await client.send(request("/"))
        await client.answer()
    assert (one.open, two.open) == (1, 1)
    await gateway.until(lambda scrape: scrape.value("gateway_backend_connections_idle") == 2, "both to be idle")
    await drain_backend(gateway, one)
    await eventually(lambda: one.open == 0, "the drained backend's connection to be closed")
    await gateway.until(
        lambda scrape: scrape.value("gateway_backend_connections_idle", backend=one.address) == 0, "none idle"
    )
    before = one.requests
    for _ in range(4):
        await client.send(request("/"))
        assert (await client.answer()).text == "2"
    assert (one.requests, two.open) == (before, 1)
    await gateway.reload()  # it is in service again
    texts = set()
    for _ in range(4):
        await client.send(request("/"))
        texts.add((await client.answer()).text)
    assert texts == {"1", "2"}


@pytest.mark.parametrize("how", ["drain", "reload"])
async def test_a_connection_that_is_logged_in_leads_nowhere_else_either(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, how: str
) -> None:
    """A client whose login is bound to a backend's connection has to log in again, elsewhere."""
    one, two = await two_kept(backends)
    gateway = await start_gateway(of_both(one, two))
    client = await open_connection(gateway)
    await client.send(request("/login"))
    first = (await client.answer()).text
    await client.send(request("/"))
    assert (await client.answer()).text == first  # its own connection
    bound, other = (one, two) if first == "1" else (two, one)
    if how == "drain":
        await drain_backend(gateway, bound)
    else:
        gateway.write(of_both(other))
        await gateway.reload()
    await eventually(lambda: bound.open == 0, "the connection to be closed")
    await client.send(request("/"))
    assert (await client.answer()).text != first
