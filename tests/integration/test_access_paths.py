"""No spelling of a path gets past the rules of its route: what the backend receives, however it reads paths."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.protocol.backends import SERVERS
from tests.support.backends import Scripted, Web
from tests.support.gateway import route
from tests.support.raw import handshake, request, switching
from tests.support.tokens import SECRET, hs256

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

PARTS = [
    *("/", "//", "/.", "/./", "/..", "/../", "/x", "/x/..", "/x/../", "/;x", "..;/", "\\", "%5c", "%2f", "%2F", ".."),
    *("/admin", "/admin", "/%61dmin", "/Adm%69n/", "/ADMIN", "/admin/../", "/%2e%2e/", "/%2e/", ";", "%3b", "users"),
    *("%2f..%2f", "%00", "%20", "?/admin", "?", "%3F", "%25", "%252f"),
]
WRITTEN = [
    *("/admin", "/admin/", "/admin/users", "//admin", "/x/../admin", "/%61dmin", "/./admin", "/admin?x", "/admin;x/y"),
    *(
        "/Admin",
        "/admin%2Fusers",
        "/admin\\users",
        "/;x/admin",
        "/%2fadmin",
        "/x//../admin",
        "/x%2f../admin",
        "/adm%49n",
    ),
]
AUTHORITIES = ["", "", "http://gateway.test", "HTTP://Gateway.Test:80"]


def targets(count: int) -> list[str]:
    """The same each time."""
    rng = random.Random(11)
    made = [
        rng.choice(AUTHORITIES) + "/" + "".join(rng.choices(PARTS, k=rng.randint(1, 6))).lstrip("/")
        for _ in range(count)
    ]
    return [prefix + target for prefix in AUTHORITIES[1:] for target in WRITTEN] + made


def is_guarded(target: str) -> bool:
    """Whether any server takes what it gets for /admin, or for something below it."""
    path = target.partition("?")[0].encode("latin-1")
    served = [server.resolves(path).lower() for server in SERVERS]
    return any(each == b"/admin" or each.startswith(b"/admin/") for each in served)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


def config(backend: str) -> dict[str, Any]:
    jwt = {"secret": SECRET, "algorithms": ["HS256"], "forward": {"sub": "X-User"}}
    return {
        "upstreams": {"all": {"backends": [backend]}},
        "routes": [route("admin", "all", auth={"jwt": jwt}), route("rest", "all", "/")],
    }


async def test_requests(start_gateway: StartGateway, web: Web, open_connection: Open) -> None:
    gateway = await start_gateway(config(web.address))
    client = await open_connection(gateway)
    token = f"Authorization: Bearer {hs256()}"
    let_in = 0
    for target in targets(400):
        for field in ("X-User: root", token):
            await client.send(request(target, field))
            answer = await client.answer()
            if answer.status == 200:
                got = json.loads(answer.text)
                users = [value for name, value in got["headers"] if name.lower() == "x-user"]
                if is_guarded(got["target"]):
                    assert users == ["ann"], target
                    let_in += 1
                else:
                    assert users == (["root"] if field is not token else []), target
            else:
                assert answer.status in (400, 401), (target, answer.text)
            if (answer.head.value("connection") or "").lower() == "close":
                await client.close()
                client = await open_connection(gateway)
    assert let_in > 30


async def test_handshakes(start_gateway: StartGateway, scripted: Scripted, open_connection: Open) -> None:
    gateway = await start_gateway(config(scripted.address))
    scripted.answers(switching())
    statuses = set()
    for target in targets(80):
        client = await open_connection(gateway)
        await client.send(handshake(target))
        status = (await client.head()).status
        statuses.add(status)
        if status == 101:
            assert not is_guarded((await scripted.next_head()).target), target
        await client.close()
    assert statuses == {101, 400, 401}
