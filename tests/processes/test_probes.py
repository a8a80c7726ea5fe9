"""Checks of backends, against real ones that do well and badly."""

import asyncio
import ssl

import pytest

from gateway.config.address import parse_backend
from gateway.config.health import HealthCheck
from gateway.config.settings import UpstreamTls
from gateway.processes import probes
from gateway.processes.probes import Checkable, CheckFailed, Probes
from gateway.protocol.websocket import accept_of
from tests.support.backends import Scripted
from tests.support.certificates import Authority
from tests.support.deadline import turn
from tests.support.frames import read_frame
from tests.support.ports import free_port
from tests.support.proxied import read_header
from tests.support.raw import switching

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready"


@pytest.fixture
async def backend():
    made = await Scripted.start()
    yield made
    await made.close()
    assert not made.failures


def checkable(address, tls=None, proxy_protocol=None, **keys):
    return Checkable("chat", parse_backend(address), HealthCheck(**{"timeout": "1s", **keys}), tls, proxy_protocol)


async def result(*args, **keys):
    """Why a check fails; None if it does not."""
    try:
        await Probes().check(checkable(*args, **keys))
    except CheckFailed as failure:
        return str(failure)
    return None


@pytest.mark.parametrize(
    ("answer", "keys", "expected"),
    [
        (OK, {}, None),
        (OK, {"body": "ready"}, None),
        (OK, {"body": "steady"}, "does not have the text of `body`"),
        (OK, {"status": "204"}, "it answered 200"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, {"body": "ready"}, None),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", {}, None),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", {}, "it answered 503"),
        (b"HTTP/1.0 200 OK\r\n\r\nsteady, ready, go", {"body": "ready"}, None),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n",
            {"body": "ready"},
            None,
        ),
        (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nready", {"body": "ready"}, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nready", {"body": "ready"}, "does not have the text of `body`"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nready",
            {"body": "ready"},
            "its answer is not valid HTTP",
        ),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000, {}, "its interim answers are endless"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", {}, "its answer is not valid HTTP"),
        (b"", {}, "it closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nX: ", {}, "it closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, {}, "its answer is not valid HTTP: a head "),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", {}, "it answered 101"),
    ],
)
async def test_answers(backend, answer, keys, expected):
    backend.answers(answer)
    said = await result(backend.address, path="/healthz?full=1", **keys)
    assert said is None if expected is None else expected in said
    head = await backend.next_head()
    assert head.target == "/healthz?full=1"
    assert head.value("host") == backend.address


async def test_one_byte_at_a_time(backend):
    async def script(connection):
        await connection.head()
        for byte in OK:
            await connection.send(bytes((byte,)))
            await turn()

    backend.plays(script)
    assert await result(backend.address, path="/", body="ready") is None


async def test_a_host_of_its_own(backend):
    backend.answers(OK)
    assert await result(backend.address, path="/", host="chat.example") is None
    assert (await backend.next_head()).value("host") == "chat.example"


@pytest.mark.parametrize("keys", [{"path": "/"}, {"websocket": "/"}, {"path": "/", "body": "ready"}])
async def test_one_that_hangs_is_late(backend, keys):
    async def script(connection):
        await connection.head()
        await connection.send(OK[:-2] if "body" in keys else b"HTTP/1.1 ")
        await connection.rest()

    backend.plays(script)
    with pytest.raises(CheckFailed, match=r"no answer within 0.2 s") as failure:
        await Probes().check(checkable(backend.address, **{"timeout": "200ms", **keys}))
    assert failure.value.late


async def test_connections(backend):
    assert await result(backend.address, tcp=True) is None
    assert await result(f"127.0.0.1:{free_port()}", tcp=True) == "Connection refused"
    assert await result("unix:/nowhere/at-all", tcp=True) == "No such file or directory"
    assert await result("nowhere.internal:80", tcp=True) == "its name does not resolve"


async def test_a_unix_socket(tmp_path):
    backend = await Scripted.start(path=str(tmp_path / "socket"))
    backend.answers(OK)
    assert await result(backend.address, path="/") is None
    assert (await backend.next_head()).value("host") == "localhost"
    await backend.close()


async def test_the_second_address_of_a_name(backend):
    backend.answers(OK)
    checks = Probes()
    port = backend.address.rpartition(":")[2]
    checks.use_names({"chat.internal": ["127.0.0.9", "127.0.0.1"]})
    for _ in range(2):  # they take turns at the front
        await checks.check(checkable(f"chat.internal:{port}", path="/"))


async def test_a_websocket_is_opened_and_closed(backend):
    closes = asyncio.get_running_loop().create_future()

    async def script(connection):
        head = await backend.request(connection)
        await connection.send(switching(accept=accept_of(head.value("sec-websocket-key").encode()).decode()))
        closes.set_result(await read_frame(connection))

    backend.plays(script)
    assert await result(backend.address, websocket="/ws") is None
    assert await closes == (8, b"\x03\xe8")
    assert (await backend.next_head()).target == "/ws"


async def test_a_websocket_that_does_not_end(backend, monkeypatch):
    """It was accepted in time, which is all that is asked."""
    monkeypatch.setattr(probes, "CLOSE_SECONDS", 0.4)

    async def script(connection):
        head = await connection.head()
        await connection.send(switching(accept=accept_of(head.value("sec-websocket-key").encode()).decode()))
        await connection.rest()

    backend.plays(script)
    assert await result(backend.address, websocket="/ws", timeout="200ms") is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (switching(), "its 101 is not valid: its Sec-WebSocket-Accept is wrong"),
        (switching(upgrade="mqtt"), "its 101 is not valid: it upgrades to another protocol"),
        (OK, "it answered 200 to a WebSocket handshake"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "it answered 404 to a WebSocket handshake"),
        (b"220 mail ready\r\n", "its answer is not valid HTTP: not an answer in HTTP/1"),
        (b"", "it closed the connection without an answer"),
    ],
)
async def test_a_websocket_that_is_not_accepted(backend, answer, expected):
    backend.answers(answer)
    assert expected in await result(backend.address, websocket="/")


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_proxy_header_comes_first(version):
    headers = []

    async def accepted(reader, writer):
        headers.append(await read_header(reader))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    assert await result(address, path="/", proxy_protocol=version) is None
    server.close()
    await server.wait_closed()
    (header,) = headers
    assert header.header.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 " if version == "v1" else b"\r\n\r\n\x00\r\nQUIT")


async def test_tls_with_one_that_has_none(backend):
    async def script(connection):
        await connection.read(3)
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    backend.plays(script)
    assert (await result(backend.address, path="/", tls=UpstreamTls(None, "a", None, None, False))).startswith("TLS: ")


async def test_tls(tmp_path):
    authority = Authority(tmp_path)
    files = authority.issue("chat.internal")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    backend = await Scripted.start(tls=context)
    backend.answers(OK)
    trusted = UpstreamTls(authority.ca.read_text(), "chat.internal", None, None, True)
    assert await result(backend.address, path="/", tls=trusted) is None
    assert await result(backend.address, tcp=True, tls=trusted) is None
    assert await result(backend.address, path="/", tls=trusted._replace(server_name=None, verify=False)) is None
    said = await result(backend.address, path="/", tls=trusted._replace(server_name="other.internal"))
    assert "its certificate is not accepted: Hostname mismatch" in said
    said = await result(backend.address, path="/", tls=trusted._replace(ca=None))
    assert "its certificate is not accepted: " in said
    await backend.close()
