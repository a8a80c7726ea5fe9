"""Forward auth that does not come to an answer: nothing is let in, nothing is left behind, and the rest goes on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.auth_server import GOOD, LET_IN, AuthServer
from tests.support.backends import Web
from tests.support.certificates import Authority
from tests.support.deadline import SCALE, eventually, within
from tests.support.gateway import Config, Gateway, route
from tests.support.ports import free_port
from tests.support.raw import Connection, Head, handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

TIMEOUT = f"{round(500 * SCALE)}ms"
UNCHECKED = "503 Service Unavailable: the credentials could not be checked\n"
AT_ONCE = 500


async def hangs(connection: Connection, head: Head) -> object:
    return await connection.reader.read(1)


async def closes(connection: Connection, head: Head) -> bool:
    return False


async def resets(connection: Connection, head: Head) -> bool:
    connection.reset()
    return False


def begins(data: bytes, closing: bool) -> Any:
    """Says the beginning of an answer, and no more."""

    async def say(connection: Connection, head: Head) -> object:
        await connection.send(data)
        return not closing and await hangs(connection, head)

    return say


async def never_ends(connection: Connection, head: Head) -> bool:
    await connection.send(LET_IN.replace(b"Content-Length: 2", b"Content-Length: 10000000000"))
    while True:
        await connection.send(b"x" * 65536)


# By case: what the auth server does, and what the log says of it.
FAILURES: dict[str, tuple[Any, str]] = {
    "hangs": (hangs, "no answer within"),
    "closes": (closes, "ServerDisconnectedError"),
    "resets": (resets, "Client"),
    "garbage": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ": Bad status line; "),
    "no-status": (b"HTTP/1.1 \r\n\r\n", "Bad"),
    "switches": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "status 101"),
    "odd-status": (b"HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n", "status 799"),
    "half-a-head": (begins(b"HTTP/1.1 200 OK\r\nX-User: ann\r\n", True), "ServerDisconnectedError"),
    "slow-head": (begins(b"HTTP/1.1 200 OK\r\nX-User: ann\r\n", False), "no answer within"),
    "interim-only": (begins(b"HTTP/1.1 100 Continue\r\n\r\n" * 3, False), "no answer within"),
    "half-a-body": (begins(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nabc", True), "ClientPayloadError"),
    "slow-body": (begins(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nabc", False), "no answer within"),
    "bad-chunks": (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "Error"),
    "both-framings": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding can't be present with Content-Length; ",
    ),
    "nul": (b"HTTP/1.1 200 OK\r\nX-User: a\0b\r\nContent-Length: 0\r\n\r\n", ""),
    "bare-cr": (b"HTTP/1.1 200 OK\r\nX-User: a\rX-Admin: b\r\nContent-Length: 0\r\n\r\n", "Missing expected LF"),
    "long-line": (b"HTTP/1.1 200 OK\r\nX-User: %b\r\n\r\n" % (b"x" * 20_000), ""),
    "many-bytes": (
        b"HTTP/1.1 200 OK\r\n%b\r\n" % b"".join(b"X-%d: %b\r\n" % (n, b"x" * 1000) for n in range(40)),
        "fields of more than",
    ),
}
LETS_IN = {
    "bare-204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "never-ends": never_ends,
    "slow-body-of-200": begins(LET_IN[:-1], False),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth() -> AsyncIterator[AuthServer]:
    server = await AuthServer.start()
    server.cases |= {name: case for name, (case, _) in FAILURES.items()} | LETS_IN
    yield server
    await server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure_servers(authority: Authority) -> AsyncIterator[dict[str, AuthServer]]:
    """Auth servers with TLS, by what their certificate is."""
    servers = {}
    for kind, name in (("good", "localhost"), ("misnamed", "other.test")):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue(name, file=f"auth-{kind}"))
        servers[kind] = await AuthServer.start(tls=context)
    yield servers
    for server in servers.values():
        await server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


def asks(url: str, **keys: Any) -> Config:
    return {"forward": {"url": url, "copy": ["X-User"], **keys}}


def port_of(server: AuthServer) -> str:
    return server.address.rpartition(":")[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    start_shared_gateway: StartGateway,
    auth: AuthServer,
    secure_servers: dict[str, AuthServer],
    web: Web,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    base = f"http://{auth.address}"
    good, misnamed = (f"https://localhost:{port_of(secure_servers[kind])}/check" for kind in ("good", "misnamed"))
    other = Authority(tmp_path_factory.mktemp("other"), "Other")
    ca = str(authority.ca)
    port = free_port()
    return await start_shared_gateway(
        {
            "listen": [{"address": f"127.0.0.1:{port}"}],
            "upstreams": {"web": {"backends": [web.address]}},
            "routes": [
                *(route(case, "web", auth=asks(f"{base}/{case}", timeout=TIMEOUT)) for case in (*FAILURES, *LETS_IN)),
                route("stale", "web", auth=asks(f"{base}/stale")),
                route("hold", "web", auth=asks(f"{base}/hold", timeout="10m")),
                route("name", "web", auth=asks(f"http://localhost:{port_of(auth)}/name")),
                route("refused", "web", auth=asks(f"http://127.0.0.1:{free_port()}/")),
                route("unknown", "web", auth=asks("http://auth.invalid/check?secret=s3cret")),
                route("secure", "web", auth=asks(good, ca=ca)),
                route("misnamed", "web", auth=asks(misnamed, ca=ca)),
                route("foreign", "web", auth=asks(good, ca=str(other.ca))),
                route("systems", "web", auth=asks(good)),
                route("plain", "web", auth=asks(f"https://127.0.0.1:{port_of(auth)}/check", ca=ca, timeout=TIMEOUT)),
                route("loop", "web", auth=asks(f"http://127.0.0.1:{port}/loop")),
                route("rest", "web", "/"),
            ],
        }
    )


OTHERS = {
    "refused": "ClientConnectorError: [Errno 111] Connect call failed",
    "unknown": "no address of auth.invalid is known yet",
    "misnamed": "certificate",
    "foreign": "certificate verify failed",
    "systems": "certificate verify failed",
    "plain": "",
}


@pytest.mark.parametrize("make", [request, handshake], ids=["plain", "handshake"])
@pytest.mark.parametrize("case", [*FAILURES, *OTHERS])
async def test_no_answer_lets_nothing_in(
    gateway: Gateway, web: Web, open_connection: Open, case: str, make: Any
) -> None:
    requests = len(web.connections)
    before = await gateway.scrape()
    client = await open_connection(gateway)
    await client.send(make(f"/{case}/ws", GOOD))
    answer = await client.answer()
    assert (answer.status, answer.text) == (503, UNCHECKED)
    assert answer.head.values("retry-after")
    assert len(web.connections) == requests
    await gateway.counts(before, "gateway_auth_total", route=case, method="forward", result="failed")
    if make is handshake:
        await gateway.counts(before, "gateway_handshakes_total", route=case, result="unavailable")
    else:
        await client.send(request("/rest/x"))
        assert (await client.answer()).status == 200
        said = FAILURES[case][1] if case in FAILURES else OTHERS[case]
        texts = ("auth server http", f"/{case}: " if case in FAILURES else "", said)
        line = await gateway.stderr.first(
            lambda line: line if all(text in line for text in texts) else None, f"a line with {texts}"
        )
        assert "s3cret" not in line


@pytest.mark.parametrize("case", [*LETS_IN, "name", "secure"])
async def test_who_is_let_in(gateway: Gateway, open_connection: Open, case: str) -> None:
    """The body of an answer that lets in is nobody's business."""
    client = await open_connection(gateway)
    for _ in range(3):
        await client.send(request(f"/{case}/x", GOOD))
        answer = await client.answer()
        assert answer.status == 200
        assert answer.text.count('["X-User", "ann"]') == (case != "bare-204")


async def test_an_auth_server_that_is_this_gateway(gateway: Gateway, open_connection: Open) -> None:
    """It is asked once, and does not ask itself again."""
    client = await open_connection(gateway)
    await client.send(request("/loop/x", GOOD))
    assert (await client.answer()).status == 508


# --- connections that are kept ----------------------------------------------------------------------------------------


async def test_connections_that_the_server_has_closed(
    gateway: Gateway, auth: AuthServer, open_connection: Open
) -> None:
    """A request on a connection that was kept too long is sent again, until it goes over a new one."""
    connections, asked = auth.connections, len(auth.asked)
    served: set[Connection] = set()

    async def serves_one(connection: Connection, head: Head) -> bool:
        if connection in served:
            return False
        served.add(connection)
        return await auth.decide(connection, head)

    auth.cases["stale"] = serves_one
    clients = [await open_connection(gateway) for _ in range(8)]
    for asking in (clients, clients[:1], clients):
        for client in asking:
            await client.send(request("/stale/x", GOOD))
        for client in asking:
            assert (await client.answer()).status == 200
    assert auth.connections - connections >= 8 + 1 + 8
    assert len(auth.asked) - asked > 8 + 1 + 8  # some were sent again


async def test_an_answer_that_nobody_has_asked_for(gateway: Gateway, auth: AuthServer, open_connection: Open) -> None:
    """It is not taken for the answer about the next request."""
    says_more, said = asyncio.Event(), asyncio.Event()

    async def answers_twice(connection: Connection, head: Head) -> bool:
        await connection.send(LET_IN)
        await says_more.wait()
        await connection.send(LET_IN)
        said.set()
        return True

    auth.cases["twice"] = answers_twice
    client = await open_connection(gateway)
    await client.send(request("/hold/x", "X-Case: twice"))
    assert (await client.answer()).status == 200
    says_more.set()
    await within(said.wait(), "the auth server to say more")
    for _ in range(3):  # the worker looks at its sockets
        await client.send(request("/rest/x"))
        assert (await client.answer()).status == 200
    await client.send(request("/hold/x"))
    assert (await client.answer()).status == 401


async def test_an_auth_server_that_is_restarted(start_gateway: StartGateway, web: Web, open_connection: Open) -> None:
    server = await AuthServer.start()
    gateway = await start_gateway(
        {
            "upstreams": {"web": {"backends": [web.address]}},
            "routes": [route("all", "web", "/", auth=asks(server.url))],
        }
    )
    client = await open_connection(gateway)
    await client.send(request("/", GOOD))
    assert (await client.answer()).status == 200
    port = int(port_of(server))
    await server.close()
    await client.send(request("/", GOOD))
    assert (await client.answer()).status == 503
    server = await AuthServer.start(port=port)
    try:
        await client.send(request("/", GOOD))
        assert (await client.answer()).status == 200
    finally:
        await server.close()


async def test_many_at_once(gateway: Gateway, auth: AuthServer, web: Web, open_connection: Open) -> None:
    """More than connections to the auth server: all get their answer, and each its own."""
    auth.cases["hang"] = auth.hang
    auth.held.clear()
    asked = len(auth.asked)
    clients = [await open_connection(gateway) for _ in range(AT_ONCE)]
    for number, client in enumerate(clients):
        fields = ["X-Case: hang", *([GOOD] if number % 3 else [])]
        await client.send(
            (handshake if number % 2 else request)(f"/hold/{number}/ws"[: None if number % 2 else -3], *fields)
        )
    await eventually(lambda: len(auth.asked) - asked >= 200, "200 sub-requests at once")
    auth.held.set()
    for number, client in enumerate(clients):
        head = await client.head()
        assert head.status == ((101 if number % 2 else 200) if number % 3 else 401), number


# --- ends -------------------------------------------------------------------------------------------------------------


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_clients_that_leave_meanwhile(gateway: Gateway, auth: AuthServer, open_connection: Open) -> None:
    """The sub-request ends with them, and no descriptor is left."""
    waiting: set[int] = set()

    async def wait(connection: Connection, head: Head) -> bool:
        waiting.add(id(head))
        await connection.reader.read(1)
        waiting.remove(id(head))
        return False

    auth.cases["wait"] = wait
    (pid,) = await gateway.worker_pids()
    before = descriptors(pid)
    clients = [await open_connection(gateway) for _ in range(60)]
    for number, client in enumerate(clients):
        await client.send((handshake if number % 2 else request)("/hold/x", "X-Case: wait"))
    await eventually(lambda: len(waiting) == len(clients), "all sub-requests")
    assert descriptors(pid) > before
    for number, client in enumerate(clients):
        if number % 3:
            await client.close()
        else:
            client.reset()
    await eventually(lambda: not waiting, "the auth server's connections to close")
    await eventually(lambda: descriptors(pid) <= before, "descriptors to be closed")
    assert (await gateway.logged(client=clients[0].name))["status"] == 499
    assert (await gateway.logged(client=clients[1].name))["reason"] == "the client went away before the answer"


def to(web: Web, auth: AuthServer | None, **keys: Any) -> Config:
    made = {} if auth is None else {"auth": asks(auth.url, timeout="1m", **keys)}
    return {"upstreams": {"web": {"backends": [web.address]}}, "routes": [route("all", "web", "/", **made)]}


async def test_a_reload_in_the_middle(start_gateway: StartGateway, web: Web, open_connection: Open) -> None:
    """What is in flight ends as it began; what is new goes by the new rules; connections do not stay."""
    auth = await AuthServer.start()
    try:
        auth.cases["hang"] = auth.hang
        gateway = await start_gateway(to(web, auth))
        first, second = await open_connection(gateway), await open_connection(gateway)
        await first.send(request("/", GOOD, "X-Case: hang", "X-Group: mine"))
        await within(auth.came.wait(), "a sub-request")
        gateway.write(to(web, auth, copy=["X-Group"]))
        await gateway.reload()
        await second.send(request("/", GOOD))
        answer = await second.answer()
        assert answer.status == 200
        assert '"ann"' not in answer.text
        assert '["X-Group", "a"]' in answer.text
        auth.held.set()
        answer = await first.answer()
        assert answer.status == 200
        assert '["X-User", "ann"]' in answer.text
        assert '["X-Group", "mine"]' in answer.text

        auth.came.clear()
        auth.held.clear()
        await first.send(request("/", "X-Case: hang"))
        await within(auth.came.wait(), "a sub-request")
        gateway.write(to(web, None))
        await gateway.reload()
        await second.send(request("/"))
        assert (await second.answer()).status == 200
        auth.held.set()
        assert (await first.answer()).status == 401
        await eventually(lambda: not auth.open, "the auth server's connections to close")
    finally:
        await auth.close()


@pytest.mark.parametrize("in_flight", [False, True])
async def test_the_end_of_a_gateway(
    start_gateway: StartGateway, web: Web, open_connection: Open, in_flight: bool
) -> None:
    """Nothing is complained of: ``stop()`` of the fixture looks at the log."""
    auth = await AuthServer.start()
    try:
        auth.cases["hang"] = auth.hang
        gateway = await start_gateway({**to(web, auth), "drain": {"period": "100ms"}})
        client = await open_connection(gateway)
        await client.send(request("/", GOOD))
        assert (await client.answer()).status == 200
        if in_flight:
            auth.came.clear()
            await client.send(request("/", GOOD, "X-Case: hang"))
            await within(auth.came.wait(), "a sub-request")
        gateway.term()
        if in_flight:
            assert (await client.answer()).text.startswith("503 Service Unavailable: this gateway is shutting down")
        await client.close()
        await gateway.exits(0)
        gateway.check_log()
        assert not [line for line in gateway.stderr.lines if "nclosed" in line or "never" in line]
    finally:
        await auth.close()


async def test_a_worker_that_is_stopped_at_once(start_gateway: StartGateway, web: Web, open_connection: Open) -> None:
    auth = await AuthServer.start()
    try:
        auth.cases["hang"] = auth.hang
        gateway = await start_gateway(to(web, auth))
        client = await open_connection(gateway)
        await client.send(request("/", GOOD, "X-Case: hang"))
        await within(auth.came.wait(), "a sub-request")
        await gateway.stop()
        assert not [line for line in gateway.stderr.lines if "nclosed" in line or "never" in line]
    finally:
        await auth.close()
