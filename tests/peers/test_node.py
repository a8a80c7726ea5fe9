"""The clients and servers of npm that most people have: ws, socket.io, and STOMP against RabbitMQ."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import StartGateway
from tests.peers.servers import Servers, node_script, program
from tests.support.deadline import SCALE
from tests.support.gateway import route, to_one
from tests.support.ports import free_port
from tests.support.process import run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


async def client(name: str, *arguments: str) -> dict[str, Any]:
    """Run a client script; what it prints."""
    status, stdout, stderr = await run([*node_script(name), *arguments], seconds=30 * SCALE)
    assert status == 0, stdout + stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


async def serve(servers: Servers, name: str) -> str:
    """Run a server script; its address."""
    port = free_port()
    await servers.start(*node_script(name), str(port), accepts=f"127.0.0.1:{port}")
    return f"127.0.0.1:{port}"


async def test_ws_at_both_ends(start_gateway: StartGateway, servers: Servers) -> None:
    gateway = await start_gateway(to_one(await serve(servers, "ws_server.js")))
    found = await client("ws_client.js", gateway.ws("/ws"))
    assert found == {
        "code": 4000,
        "reason": "done",
        "pong": "are you there",
        "extensions": "permessage-deflate",
        "same": True,
        "count": 4,
    }
    record = await gateway.logged(event="tunnel_end", path="/ws")
    assert (record["initiator"], record["cause"], record["client_close_code"]) == ("client", "close_frame", 4000)


@pytest.mark.parametrize(
    ("transports", "before", "after"),
    [
        ("polling,websocket", "polling", "websocket"),
        ("polling", "polling", "polling"),
        ("websocket", "websocket", "websocket"),
    ],
)
async def test_socket_io(
    start_gateway: StartGateway, servers: Servers, transports: str, before: str, after: str
) -> None:
    gateway = await start_gateway(to_one(await serve(servers, "socketio_server.js"), workers=2))
    before_all = await gateway.scrape()
    found = await client("socketio_client.js", gateway.http(), transports)
    assert found.get("error") is None
    assert (found["before"], found["after"]) == (before, after)
    assert found["echoes"] == ["first", "x" * 100_000, {"type": "Buffer", "data": [1, 2, 3]}]
    if after == "websocket":
        await gateway.logged(event="tunnel_end")
        await gateway.counts(before_all, "gateway_handshakes_total", result="upgraded")
    scrape = await gateway.scrape()
    assert scrape.value("gateway_handshakes_total") == (after == "websocket")
    assert (scrape.value("gateway_http_requests_total", code="200") > 1) == (before == "polling")


@pytest.mark.parametrize("balance", ["sticky", "client_ip"])
async def test_socket_io_with_two_instances(start_gateway: StartGateway, servers: Servers, balance: str) -> None:
    """Each knows the sessions that it has begun, and answers 400 to all others."""
    backends = [await serve(servers, "socketio_server.js") for _ in range(2)]
    how = {"balance": "sticky"} if balance == "sticky" else {"balance": "consistent_hash", "hash_on": balance}
    gateway = await start_gateway(
        {"workers": 2, "upstreams": {"chat": {"backends": backends, **how}}, "routes": [route("all", "chat", "/")]}
    )
    for _ in range(4):
        found = await client("socketio_client.js", gateway.http(), "polling,websocket")
        assert found.get("error") is None
        assert (found["before"], found["after"], found["tries"]) == ("polling", "websocket", 1)
    assert {record["status"] for record in gateway.log_records(event="http")} == {200}


async def test_socket_io_by_the_hash_of_its_session(start_gateway: StartGateway, servers: Servers) -> None:
    """The first poll has no session yet, so the second may belong elsewhere. The client then connects again."""
    backends = [await serve(servers, "socketio_server.js") for _ in range(2)]
    how = {"balance": "consistent_hash", "hash_on": "query:sid"}
    gateway = await start_gateway(
        {"workers": 2, "upstreams": {"chat": {"backends": backends, **how}}, "routes": [route("all", "chat", "/")]}
    )
    found = await client("socketio_client.js", gateway.http(), "polling,websocket", "40")
    assert found.get("error") is None
    assert (found["before"], found["after"]) == ("polling", "websocket")
    found = await client("socketio_client.js", gateway.http(), "websocket")
    assert (found.get("error"), found["after"]) == (None, "websocket")


@pytest_asyncio.fixture(loop_scope="module")
async def rabbitmq(servers: Servers, tmp_path: Path) -> AsyncIterator[str]:
    """RabbitMQ with STOMP over WebSocket, its own port mapper and its own directory; the address of the latter."""
    amqp, stomp, web_stomp, distribution, mapper = (free_port() for _ in range(5))
    (tmp_path / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
        f"stomp.listeners.tcp.1 = 127.0.0.1:{stomp}\n"
        f"web_stomp.tcp.ip = 127.0.0.1\n"
        f"web_stomp.tcp.port = {web_stomp}\n"
    )
    (tmp_path / "enabled_plugins").write_text("[rabbitmq_web_stomp].\n")
    env = {
        "HOME": str(tmp_path),  # for the cookie
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"gateway-test-{amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_BASE": str(tmp_path),
        "RABBITMQ_CONFIG_FILE": str(tmp_path / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(tmp_path / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(tmp_path / "mnesia"),
        "RABBITMQ_LOG_BASE": str(tmp_path / "log"),
        "RABBITMQ_PID_FILE": str(tmp_path / "pid"),
        "RABBITMQ_LOGS": "-",
    }
    address = f"127.0.0.1:{web_stomp}"
    try:
        await servers.start(program("rabbitmq-server"), accepts=address, env=env, seconds=60 * SCALE)
        yield address
    finally:
        await servers.close()
        await run([program("epmd"), "-port", str(mapper), "-kill"])


async def test_stomp_over_websocket_to_rabbitmq(start_gateway: StartGateway, rabbitmq: str) -> None:
    gateway = await start_gateway(to_one(rabbitmq))
    found = await client("stomp_client.js", gateway.ws("/ws"))
    assert found == {"version": "1.2", "protocol": "v12.stomp", "bodies": ["one", "héllo", "x" * 200_000]}
    record = await gateway.logged(event="tunnel_end", path="/ws")
    assert record["subprotocol"] == "v12.stomp"
    assert record["cause"] == "close_frame"
