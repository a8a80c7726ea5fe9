"""Clients that mean no good, or are broken: before, in and behind the TLS handshake."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time

import pytest
import pytest_asyncio

from gateway.edge.tls.contexts import client_context
from gateway.edge.tls.handshake import Handshake
from gateway.edge.tls.secrets import KeyLog
from gateway.protocol.tls.alerts import BAD_RECORD_MAC, NO_RENEGOTIATION, UNEXPECTED_MESSAGE
from gateway.protocol.tls.content import ALERT, CLOSED, FATAL_ALERT, HANDSHAKE
from tests.conftest import Backends, StartGateway
from tests.edge.tls.ends import cut_messages, first_flight
from tests.protocol.tls.ends import End
from tests.support.certificates import Authority
from tests.support.deadline import SOAK, eventually, quiet_for, within
from tests.support.frames import TEXT, frame
from tests.support.gateway import Gateway
from tests.support.memory import open_descriptors
from tests.support.raw import Connection, connect, handshake, request
from tests.support.sockets import has_been_read
from tests.support.tls import TlsConnection, trusting

from .conftest import Secure
from .test_https import tls_to

pytestmark = pytest.mark.asyncio(loop_scope="module")
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
HEAD_SECONDS = 1.0
SLACK, MANY = 4, 12
STOPPING, AT_ONCE, BUSY = (10_000, 1000, 100) if SOAK else (200, 100, 10)
LONGEST_P99_SECONDS = 0.02
"""Of round trips beside handshakes, on a machine that does nothing else; looked at in the long version."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, shared_backends: Backends, authority: Authority) -> Gateway:
    web = await shared_backends.web()
    return await start_shared_gateway(tls_to(web.address, authority, timeouts={"request_head": f"{HEAD_SECONDS:g}s"}))


class NothingLeft:
    """Sees to it that a test leaves no descriptor in the worker, but for a few to backends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = open_descriptors(pid)

    async def check(self) -> None:
        await eventually(lambda: open_descriptors(self._pid) <= self._before + SLACK, "no descriptor to be left")


@pytest_asyncio.fixture(loop_scope="module")
async def nothing_left(gateway: Gateway) -> NothingLeft:
    (pid,) = await gateway.worker_pids()
    return NothingLeft(pid)


async def still_serves(gateway: Gateway, authority: Authority) -> None:
    client = TlsConnection(trusting(authority.ca), "gateway.test", await gateway.connect())
    await client.shake()
    await client.send(request("/"))
    assert (await client.answer()).status == 200
    await client.close()


# --- clients that stop ------------------------------------------------------------------------------------------------


async def until_stopped(client: TlsConnection, flights: int, cut: int) -> None:
    """Make a handshake up to a message, of which only some bytes are sent.

    :param flights: of the client that are sent whole
    :param cut: how many bytes of the next one are sent
    """
    tls = client.tls
    for number in range(flights + 1):
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        data = client.outgoing.read()
        client.raw.writer.write(data if number < flights else data[:cut])
        if number == flights:
            return
        while True:
            client.incoming.write(await client.raw.reader.read(100_000))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                if client.outgoing.pending:
                    break
            else:
                break
        if client.outgoing.pending:
            data = client.outgoing.read()
            client.raw.writer.write(data[:cut])
            return


@VERSIONS
@pytest.mark.parametrize(("flights", "cut"), [(0, 0), (0, 3), (0, 5), (0, 100), (1, 0), (1, 4), (1, 40)])
async def test_clients_that_stop_are_gone_after_the_timeout(
    gateway: Gateway, authority: Authority, nothing_left: NothingLeft, version: str, flights: int, cut: int
) -> None:
    before = await gateway.scrape()
    context = trusting(authority.ca, version)
    raws = [await gateway.connect() for _ in range(MANY)]
    for raw in raws:
        await until_stopped(TlsConnection(context, "gateway.test", raw), flights, cut)
    for raw in raws:
        await raw.ends(seconds=3 * HEAD_SECONDS + 5)
    labels = {"side": "client", "result": "timeout", "version": "-"}
    await gateway.counts(before, "gateway_tls_handshakes_total", MANY, **labels)
    record = await gateway.logged(event="tls_handshake", client=raws[0].name)
    assert record["result"] == "timeout"
    assert record["server_name"] == ("gateway.test" if flights else None)
    await nothing_left.check()
    for raw in raws:
        await raw.close()


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_many_that_stop_at_once(gateway: Gateway, authority: Authority, nothing_left: NothingLeft) -> None:
    """With their ClientHellos, so that each costs a signature."""
    hello = first_flight(trusting(authority.ca))
    clients = []
    while len(clients) < STOPPING:
        clients += await asyncio.gather(*(gateway.connect() for _ in range(100)))
        for client in clients[-100:]:
            await client.send(hello)
    for client in clients:
        await within(client.reader.read(1), "an answer, or the end", 60)
    await still_serves(gateway, authority)
    for client in clients:
        await client.ends(seconds=60)
        await client.close()
    await nothing_left.check()


async def test_clients_that_go_away_in_the_middle(
    gateway: Gateway, authority: Authority, nothing_left: NothingLeft
) -> None:
    hello = first_flight(trusting(authority.ca))
    before = await gateway.scrape()
    for cut in (1, 5, 50, len(hello)):
        for reset in (False, True):
            client = await gateway.connect()
            await client.send(hello[:cut])
            await eventually(lambda name=client.name: has_been_read(name), "the gateway to read it")
            if reset:
                client.reset()
            else:
                await client.close()
    labels = {"side": "client", "result": "closed", "version": "-"}
    await gateway.counts(before, "gateway_tls_handshakes_total", 8, **labels)
    await nothing_left.check()


async def test_a_look_whether_somebody_listens_is_no_handshake(gateway: Gateway) -> None:
    labels = {"side": "client", "result": "closed", "version": "-"}
    before = await gateway.scrape()
    look = await gateway.connect()
    name = look.name
    await look.close()
    client = await gateway.connect()  # one that is counted, behind it
    await client.send(b"\x16")
    await client.close()
    await gateway.counts(before, "gateway_tls_handshakes_total", **labels)
    assert not gateway.log_records(event="tls_handshake", client=name)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_handshakes_at_once_beside_busy_tunnels(gateway: Gateway, authority: Authority) -> None:
    """They take their turns, and tunnels are served between."""
    context = trusting(authority.ca)
    plain = [await connect(gateway.config["listen"][1]["address"]) for _ in range(BUSY)]
    message, answer = frame(TEXT, b"x" * 64, mask=b"mask"), frame(TEXT, b"x" * 64)
    for tunnel in plain:
        await tunnel.send(handshake("/a/ws"))
        assert (await tunnel.head()).status == 101
    over = asyncio.Event()
    seconds: list[float] = []

    async def busy(tunnel: Connection) -> None:
        while not over.is_set():
            began = time.perf_counter()
            await tunnel.echoes(message, answer)
            seconds.append(time.perf_counter() - began)
            await quiet_for(0.02)

    async def shake() -> None:
        client = TlsConnection(context, "gateway.test", await gateway.connect())
        await client.shake()
        await client.close()

    tunnels = [asyncio.create_task(busy(tunnel)) for tunnel in plain]
    await asyncio.gather(*(shake() for _ in range(AT_ONCE)))
    over.set()
    await asyncio.gather(*tunnels)
    for tunnel in plain:
        await tunnel.close()
    assert len(seconds) >= BUSY
    if SOAK:
        assert sorted(seconds)[len(seconds) * 99 // 100] < LONGEST_P99_SECONDS


# --- what is no handshake, or a strange one ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x80\x2e\x01\x00\x02" + bytes(41),
        b"\x16\x03\x01\x40\x00" + bytes(0x4000),
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x03\xff\xff",
        b"\x17\x03\x03\x00\x01\x00",
        b"\x16\x03\x01\x00\x00",
        os.urandom(4000),
    ],
)
async def test_garbage(gateway: Gateway, authority: Authority, data: bytes) -> None:
    client = await gateway.connect()
    await client.send(data)
    await client.ends(seconds=3 * HEAD_SECONDS + 5)
    record = await gateway.logged(event="tls_handshake", client=client.name)
    assert record["result"] in ("not_tls", "protocol_error", "too_large", "timeout")
    await client.close()
    await still_serves(gateway, authority)


async def test_a_hello_without_end(gateway: Gateway, authority: Authority) -> None:
    """It ends by its size, not by the time-out."""
    client = await gateway.connect()
    await client.send(b"\x16\x03\x01\x00\x04\x01\x03\xff\xff")
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            await client.send((b"\x16\x03\x01\x40\x00" + bytes(0x4000)) * 4)
    await client.ends()
    record = await gateway.logged(event="tls_handshake", client=client.name)
    assert record["result"] == "too_large"
    await client.close()


@VERSIONS
@pytest.mark.parametrize("size", [1, 50])
async def test_a_hello_in_small_records_and_segments(
    gateway: Gateway, authority: Authority, version: str, size: int
) -> None:
    client = TlsConnection(trusting(authority.ca, version), "gateway.test", await gateway.connect())
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    for byte in cut_messages(client.outgoing.read(), size):
        client.raw.writer.write(bytes((byte,)))
    await client.shake()
    await client.send(request("/"))
    assert (await client.answer()).status == 200
    await client.close()


# --- behind the handshake ---------------------------------------------------------------------------------------------


class Ours:
    """A client whose records are made here."""

    def __init__(self, connection: Connection, handshake: Handshake) -> None:
        assert handshake.established is not None
        self.connection = connection
        self.end = End(handshake.established.cells)
        self.rest = handshake.rest()

    async def send(self, data: bytes) -> None:
        await self.connection.send(data)

    async def read(self) -> bytes:
        """Some data; nothing at the end."""
        while True:
            data, self.rest = self.rest or await self.connection.reader.read(100_000), b""
            found = self.end.read(data)
            if found or not data or self.end.records.event:
                return found


async def ours(gateway: Gateway, authority: Authority, version: str) -> Ours:
    key_log = KeyLog()
    context = client_context(key_log)
    context.load_verify_locations(authority.ca)
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    handshake = Handshake(key_log, context=context, server_name="gateway.test")
    connection = await gateway.connect()
    handshake.start()
    while handshake.established is None:
        await connection.send(handshake.take_output())
        handshake.receive(await connection.reader.read(100_000))
        while handshake.established is None and handshake.has_record:
            handshake.step()
    await connection.send(handshake.take_output())
    key_log.close()
    return Ours(connection, handshake)


async def ends_with(client: Ours, alert: int | None) -> None:
    """The gateway ends the connection. :param alert: that it says so with"""
    while await client.read():
        pass
    records = client.end.records
    assert records.event == (CLOSED if alert is None else FATAL_ALERT)
    if alert is not None:
        assert records.alert == alert
    assert await client.connection.rest() == b""
    await client.connection.close()


async def test_key_updates(gateway: Gateway, authority: Authority) -> None:
    """Ten in a row that all ask for an answer, between and within requests."""
    client = await ours(gateway, authority, "1.3")
    for number in range(10):
        await client.send(client.end.update_keys(number % 2))
        half = request(f"/{number}")
        await client.send(client.end.send(half[:9]) + client.end.update_keys(1) + client.end.send(half[9:]))
        assert (await client.read()).startswith(b"HTTP/1.1 200")
    await client.send(client.end.close())
    await ends_with(client, None)


async def test_renegotiation_is_refused(gateway: Gateway, authority: Authority) -> None:
    client = await ours(gateway, authority, "1.2")
    await client.send(client.end.send(request("/")))
    assert (await client.read()).startswith(b"HTTP/1.1 200")
    await client.send(client.end.record(HANDSHAKE, first_flight(trusting(authority.ca, "1.2"))[5:]))
    while await client.read():
        pass
    assert client.end.records.alert in (0, NO_RENEGOTIATION)
    assert await client.connection.rest() == b""
    await client.connection.close()


@VERSIONS
async def test_records_in_the_wrong_place(gateway: Gateway, authority: Authority, version: str) -> None:
    client = await ours(gateway, authority, version)
    await client.send(client.end.record(HANDSHAKE, b"\x14\x00\x00\x0c" + bytes(12)))  # a second Finished
    await ends_with(client, UNEXPECTED_MESSAGE)


@VERSIONS
async def test_a_record_twice(gateway: Gateway, authority: Authority, version: str) -> None:
    client = await ours(gateway, authority, version)
    record = client.end.send(request("/"))
    await client.send(record)
    assert (await client.read()).startswith(b"HTTP/1.1 200")
    await client.send(record)
    await ends_with(client, BAD_RECORD_MAC)


@VERSIONS
async def test_empty_records_without_end(gateway: Gateway, authority: Authority, version: str) -> None:
    client = await ours(gateway, authority, version)
    await client.send(b"".join(client.end.record(23, b"") for _ in range(100)))
    await ends_with(client, UNEXPECTED_MESSAGE)


@VERSIONS
async def test_the_clients_alert_ends_it(gateway: Gateway, authority: Authority, secure: Secure, version: str) -> None:
    client = await ours(gateway, authority, version)
    await client.send(client.end.send(request("/")))
    assert (await client.read()).startswith(b"HTTP/1.1 200")
    await client.send(client.end.record(ALERT, bytes((2, 80))))
    assert await client.connection.ends() == b""
    await client.connection.close()
