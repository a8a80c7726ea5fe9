"""What the admin API can be told to do, and by whom not."""

import asyncio
import json
import socket

import aiohttp
import pytest

from gateway.admin.server import start_admin
from tests.support.deadline import quiet_for

from ..support.deadline import eventually
from .gateways import FakeGateway


class Admin:
    """A running admin address, what it was told, and a client of it."""

    def __init__(self, gateway: FakeGateway, port: int, client: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.told = gateway.operations.told
        self.port = port
        self._client = client

    async def post(self, path: str, body: object = None, **fields: str):
        """Status and answer."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self._client.post(
            f"http://127.0.0.1:{self.port}/api/v1/{path}", data=data, headers=fields
        ) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def admin(tmp_path):
    gateway = FakeGateway()
    sock = socket.create_server(("127.0.0.1", 0))
    server = await start_admin(gateway.state, sock, str(tmp_path), gateway.operations)
    async with aiohttp.ClientSession() as client:
        yield Admin(gateway, sock.getsockname()[1], client)
    await server.close()
    gateway.table.close()


# --- what is done -----------------------------------------------------------------------------------------------------


async def test_reload(admin):
    assert await admin.post("reload") == (200, {"reloaded": True, "time": admin.gateway.state.last_reload_unix})
    assert admin.told == ["reload"]


async def test_a_reload_that_is_refused(admin):
    admin.gateway.operations.refusal = "gateway.yaml:3:1: routes: é\ngateway.yaml:4:1: more"
    status, answer = await admin.post("reload")
    assert (status, answer) == (409, {"error": "gateway.yaml:3:1: routes: é\ngateway.yaml:4:1: more"})


async def test_stop(admin):
    assert await admin.post("stop") == (202, {"stopping": True})
    assert admin.told == ["stop"]


async def test_drain_answers_at_once(admin):
    admin.gateway.open()
    status, answer = await admin.post("drain")
    assert (status, admin.told) == (202, ["drain"])
    assert answer == {"done": False, "tunnels": 1, "period": 30.0, "seconds": answer["seconds"]}


async def test_a_rebalance(admin):
    status, answer = await admin.post("rebalance")
    assert (status, answer["dry_run"], answer["period"]) == (202, False, 120.0)
    [each] = answer["upstreams"]
    assert (each["upstream"], each["tunnels"], each["left"], each["done"]) == ("chat", 3, 3, False)
    assert each["backends"] == [{"address": "127.0.0.1:9001", "tunnels": 8, "share": 5, "surplus": 3}]
    assert (await admin.post("rebalance?upstream=chat&period=90s&dry_run=true"))[0] == 200
    assert (await admin.post("rebalance?upstream=chat&period=0s"))[0] == 202
    assert (await admin.post("rebalance", {"upstream": "feed", "period": 1.5, "dry_run": False}))[0] == 202
    assert admin.told == [
        "rebalance None over 120 s, dry_run False",
        "rebalance chat over 90 s, dry_run True",
        "rebalance chat over 0 s, dry_run False",
        "rebalance feed over 1.5 s, dry_run False",
    ]


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("upstream=chta", 'there is no upstream "chta" (did you mean chat?'),
        ("period=soon", 'period is "soon" (seconds or a duration'),
        ("period=-1", 'period is "-1" (seconds or a duration'),
        ("dry_run=maybe", "dry_run is maybe (true or false)"),
        ("backend=a:1", 'unknown parameter "backend"'),
    ],
)
async def test_a_rebalance_that_cannot_be(admin, query, what):
    status, answer = await admin.post(f"rebalance?{query}")
    assert status == 400
    assert what in answer["error"]
    assert admin.told == []


@pytest.mark.parametrize("wait", ["drain?wait=true", "drain?wait=1"])
async def test_drain_may_be_waited_for(admin, wait):
    asking = asyncio.create_task(admin.post(wait))
    drain = await eventually(lambda: admin.gateway.state.drain, "the drain")
    await quiet_for(0.05)
    assert not asking.done()
    drain.over.set()
    status, answer = await asking
    assert (status, answer["done"]) == (200, True)


async def test_a_drain_that_is_cut_short(admin):
    asking = asyncio.create_task(admin.post("drain", {"wait": True}))
    drain = await eventually(lambda: admin.gateway.state.drain, "the drain")
    drain.cut_short = True
    drain.over.set()
    assert await asking == (409, {"error": "the drain was cut short: the gateway exits with tunnels open"})


@pytest.mark.parametrize("as_body", [True, False])
async def test_one_backend(admin, as_body):
    row = admin.gateway.open(backend=("chat", "chat2.internal:9001"))
    address = "Chat2.Internal:9001"
    if as_body:
        status, answer = await admin.post("drain", {"backend": address})
    else:
        status, answer = await admin.post(f"drain?backend={address}")
    assert (status, answer["tunnels"], admin.told) == (202, 1, ["drain [1]"])
    admin.gateway.close(row)


async def test_the_last_tunnel_of_a_backend_is_waited_for(admin):
    row = admin.gateway.open(backend=("feed", "unix:/run/feed.sock"))
    other = admin.gateway.open()
    asking = asyncio.create_task(admin.post("drain", {"backend": "unix:/run/feed.sock", "wait": True}))
    await quiet_for(0.3)
    assert not asking.done()
    admin.gateway.close(row)
    status, answer = await asking
    assert (status, answer["done"], answer["tunnels"]) == (200, True, 1)
    admin.gateway.close(other)


@pytest.mark.parametrize("why", ["a reload has put the backend into service again", "the gateway is shutting down"])
async def test_a_backends_drain_that_is_cut_short(admin, why):
    row = admin.gateway.open()
    asking = asyncio.create_task(admin.post("drain", {"backend": "127.0.0.1:9001", "wait": True}))
    await eventually(lambda: admin.told, "the order")
    if "reload" in why:
        admin.gateway.state.drained_backends = {}
    else:
        admin.gateway.state.stopping = True
    assert await asking == (409, {"error": f"the drain was cut short: {why}"})
    admin.gateway.close(row)


async def test_a_gateway_that_is_shutting_down(admin):
    admin.gateway.operations.refusal = "the gateway is shutting down"
    for path in ("reload", "drain", "stop", "drain?backend=127.0.0.1:9001"):
        assert await admin.post(path) == (409, {"error": "the gateway is shutting down"})


# --- what makes no sense ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("drain", {"backend": "10.9.9.9:1"}, 'there is no backend "10.9.9.9:1" ('),
        ("drain?backend=nonsense", None, "backend: "),
        ("drain", {"backend": 5}, "backend: "),
        ("drain", {"backends": "127.0.0.1:9001"}, 'unknown parameter "backends" (did you mean backend? there are: '),
        ("drain?backend=127.0.0.1:9001", {"backend": "127.0.0.1:9001"}, "backend is given twice"),
        ("drain?wait=maybe", None, "wait is maybe (true or false)"),
        ("drain", b"backend=127.0.0.1:9001", "the body is not JSON"),
        ("drain", [1], "the body is not a JSON object"),
        ("drain", b"\xff", "the body is not JSON"),
        ("drain", b"[" * 60_000, "the body is not JSON"),
        ("reload?now=1", None, 'unknown parameter "now"'),
        ("stop", {"now": True}, 'unknown parameter "now"'),
    ],
)
async def test_what_makes_no_sense_is_a_400(admin, path, body, says):
    status, answer = await admin.post(path, body)
    assert status == 400
    assert answer["error"].startswith(says)
    assert admin.told == []


async def test_only_post_does_something(admin):
    for path in ("reload", "drain", "stop"):
        async with admin._client.get(f"http://127.0.0.1:{admin.port}/api/v1/{path}") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert admin.told == []
