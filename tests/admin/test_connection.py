"""HTTP on the admin address, byte by byte."""

import asyncio
import json
import socket
from random import Random

import pytest

from gateway.admin import connection, serving
from gateway.admin.connection import MAX_BODY_BYTES
from gateway.admin.messages import Request, Response, encoded, json_answer
from gateway.admin.serving import HttpServer

from ..support.deadline import eventually, within


async def soon(work):
    return await within(work, "the admin address")


class Served:
    """A running server that answers with what it was sent, and opens connections to it."""

    def __init__(self, server: HttpServer, port: int) -> None:
        self.server = server
        self.started: list[str] = []
        self.go_on = asyncio.Event()
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        return reader, writer

    async def answer(self, request: Request) -> Response:
        self.started.append(request.path)
        if request.path == "/slow":
            await self.go_on.wait()
        if request.path == "/broken":
            raise KeyError("a fault of ours")
        if request.path == "/large":
            return Response(b"x" * 20_000_000, "text/plain")
        said = {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "body": request.body.decode("latin-1"),
        }
        return json_answer(encoded(said), 200, {"X-Own": "yes"})

    async def ask(self, data: bytes) -> list[bytes]:
        """Send bytes and the end of the stream; return the heads and bodies of all that comes."""
        reader, writer = await self.connect()
        writer.write(data)
        writer.write_eof()
        return (await soon(reader.read())).split(b"\r\n\r\n")

    def leave(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def served():
    sock = socket.create_server(("127.0.0.1", 0))
    running = Served(None, sock.getsockname()[1])
    running.server = HttpServer(running.answer, {"Server": "ours"})
    await running.server.start(sock)
    yield running
    running.leave()
    await running.server.close(0)


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of the next answer."""
    line, *lines = (await soon(reader.readuntil(b"\r\n\r\n"))).decode().splitlines()[:-1]
    fields = dict(each.split(": ", 1) for each in lines)
    return int(line.split()[1]), fields, await soon(reader.readexactly(int(fields["Content-Length"])))


GET = b"GET /a%20b?x=1&x=&y=%C3%A9 HTTP/1.1\r\nHost: h\r\n\r\n"
IN_CHUNKS = b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
POSTS = {
    "length": b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": IN_CHUNKS + b"2;e=1\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n",
}


async def test_an_answer(served):
    reader, writer = await served.connect()
    writer.write(GET)
    status, fields, body = await answer_of(reader)
    assert status == 200
    assert json.loads(body) == {
        "method": "GET",
        "path": "/a b",
        "query": [["x", "1"], ["x", ""], ["y", "é"]],
        "body": "",
    }
    assert (fields["Server"], fields["X-Own"]) == ("ours", "yes")
    assert fields["Date"].endswith(" GMT")
    assert "Connection" not in fields


@pytest.mark.parametrize("kind", POSTS)
async def test_requests_in_one_packet_and_byte_by_byte(served, kind):
    reader, writer = await served.connect()
    stream = (POSTS[kind] + GET) * 3
    for pieces in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        for _ in range(3):
            assert json.loads((await answer_of(reader))[2])["body"] == "hello"
            assert json.loads((await answer_of(reader))[2])["path"] == "/a b"


async def test_a_head_has_no_body(served):
    reader, writer = await served.connect()
    writer.write(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    head = await soon(reader.readuntil(b"\r\n\r\n"))
    assert b"Content-Length: 49\r\n" in head
    assert (await answer_of(reader))[0] == 200


@pytest.mark.parametrize(
    ("data", "line", "last"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + GET, b"HTTP/1.1 200 ", b"Connection: close"),
        (b"GET / HTTP/1.0\r\n\r\n" + GET, b"HTTP/1.0 200 ", b"Connection: close"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 ", b"400: no Host\n"),
        (b"GET /\r\n\r\n", b"HTTP/1.1 400 ", b"400: malformed request line: it names no version of HTTP\n"),
        (b"GET http HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.1 400 ", b"neither a path nor an http URL\n"),
        (
            b"GET /?" + b"&" * 200 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
            b"HTTP/1.1 400 ",
            b"of fields exceeded\n",
        ),
        (b"\x16\x03\x01", b"HTTP/1.1 400 ", b"TLS, where plain HTTP is spoken\n"),
        (b"GET / HTTP/2.0\r\n\r\n", b"HTTP/1.1 505 ", b"505: HTTP/2.0 is not spoken here\n"),
        (b"GET /" + b"x" * 40000, b"HTTP/1.1 431 ", b"over 32768 bytes\n"),
        (
            IN_CHUNKS + b"x",
            b"HTTP/1.1 400 ",
            b"400: malformed request body: a chunk without a size\n",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537,
            b"HTTP/1.1 413 ",
            b"413: request body over 65536 bytes\n",
        ),
        (
            IN_CHUNKS + b"10001\r\n" + b"x" * 65537 + b"\r\n0\r\n\r\n",
            b"HTTP/1.1 413 ",
            b"413: request body over 65536 bytes\n",
        ),
    ],
    ids=range(12),
)
async def test_the_last_request_of_a_connection(served, data, line, last):
    heads, body = await served.ask(data)
    first, *fields = heads.split(b"\r\n")
    assert first.startswith(line)
    assert b"Connection: close" in fields
    assert last in fields or body.endswith(last)


@pytest.mark.parametrize("kind", POSTS)
async def test_the_largest_body(served, kind):
    reader, writer = await served.connect()
    body = b"x" * MAX_BODY_BYTES
    head = POSTS[kind].partition(b"\r\n\r\n")[0]
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if kind == "chunks" else body
    writer.write(head.replace(b": 5", b": %d" % MAX_BODY_BYTES) + b"\r\n\r\n" + body + GET)
    assert len(json.loads((await answer_of(reader))[2])["body"]) == MAX_BODY_BYTES
    assert (await answer_of(reader))[0] == 200


async def test_a_client_that_asks_whether_to_send_its_body(served):
    reader, writer = await served.connect()
    head, body = POSTS["length"].split(b"\r\n\r\n")
    writer.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
    assert await soon(reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await answer_of(reader))[0] == 200


async def test_a_handler_that_fails(served, caplog):
    reader, writer = await served.connect()
    writer.write(b"GET /broken HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    assert (await answer_of(reader))[0] == 500
    assert (await answer_of(reader))[0] == 200
    (record,) = caplog.records
    assert record.getMessage() == "admin: no answer to GET /broken"
    assert record.exc_info


async def test_garbage(served, caplog):
    """Whatever is sent, the connection ends without a fault of ours, and only with answers that are well-formed."""
    random = Random(7)
    for _ in range(200):
        stream = bytearray(POSTS[random.choice(list(POSTS))] + GET)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(stream))
            stream[at : at + random.randint(0, 3)] = random.randbytes(random.randint(0, 3))
        reader, writer = await served.connect()
        writer.write(stream)
        writer.write_eof()
        while not reader.at_eof() and await soon(reader.read(1)):
            assert (await soon(reader.readuntil(b"\r\n"))).startswith(b"TTP/1.")
            fields = (await soon(reader.readuntil(b"\r\n\r\n"))).decode().split("\r\n")
            length = next(int(each.split(": ")[1]) for each in fields if each.startswith("Content-Length: "))
            await soon(reader.readexactly(length))
    assert not caplog.records


async def test_clients_that_leave_at_any_byte(served, caplog):
    stream = POSTS["chunks"] + b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"
    for size in range(len(stream) + 1):
        _, writer = await served.connect()
        writer.write(stream[:size])
        await writer.drain()
        writer.transport.abort()
    await eventually(lambda: "/slow" in served.started, "the slow request")
    served.go_on.set()
    await eventually(lambda: not served.server._connections, "the end of all connections")
    assert not caplog.records


@pytest.mark.parametrize("begins", [b"", b"GET / HT", POSTS["length"][:-1]])
async def test_a_client_that_is_too_slow(served, begins, monkeypatch):
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.05)
    reader, writer = await served.connect()
    writer.write(begins)
    assert await soon(reader.read()) == b""


async def test_a_client_that_does_not_read_its_answer(served, monkeypatch):
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.05)
    _, writer = await served.connect()
    writer.write(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(lambda: served.started, "the request")
    await eventually(lambda: not served.server._connections, "the end of its connection")


async def test_a_large_answer(served):
    reader, writer = await served.connect()
    writer.write(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    assert len((await answer_of(reader))[2]) == 20_000_000
    assert (await answer_of(reader))[0] == 200


async def test_too_many_connections(served, monkeypatch, caplog):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 2)
    idle, _ = await served.connect()
    await eventually(lambda: len(served.server._connections) == 1, "the first connection")
    busy, writer = await served.connect()
    writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(lambda: served.started, "the request")
    third, writer = await served.connect()
    assert await soon(idle.read()) == b""  # it made room
    writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(lambda: len(served.started) == 2, "the second request")
    refused, _ = await served.connect()
    assert await soon(refused.read()) == b""
    assert [record.getMessage() for record in caplog.records] == ["admin: refused a connection: there are 2 already"]
    served.go_on.set()
    assert [(await answer_of(each))[0] for each in (busy, third)] == [200, 200]


async def test_close_waits_for_requests_and_for_nothing_else(served):
    idle, _ = await served.connect()
    busy, writer = await served.connect()
    writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    await eventually(lambda: served.started, "the request")
    closing = asyncio.create_task(served.server.close(10))
    assert await soon(idle.read()) == b""
    assert not closing.done()
    served.go_on.set()
    status, fields, _ = await answer_of(busy)
    assert (status, fields["Connection"]) == (200, "close")
    assert await soon(busy.read()) == b""
    await soon(closing)


async def test_close_ends_a_connection_that_is_not_served_yet(served):
    ours, theirs = socket.socketpair()
    with theirs:
        served.server._accepted(*await asyncio.open_connection(sock=ours))
        await soon(served.server.close(1))
        theirs.setblocking(False)
        assert await soon(asyncio.get_running_loop().sock_recv(theirs, 1)) == b""


async def test_close_ends_a_request_that_takes_too_long(served):
    reader, writer = await served.connect()
    writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(lambda: served.started, "the request")
    await soon(served.server.close(0.01))
    assert await soon(reader.read()) == b""
