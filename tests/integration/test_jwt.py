"""Routes that ask for a token: who comes in, and what the backend gets."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.client import connect

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import SUBPROTOCOL, Echo, Scripted, Web
from tests.support.gateway import Gateway, route
from tests.support.raw import handshake, request, switching
from tests.support.tokens import SECRET, compact, hs256, jwk, key_set, signed

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

ISSUER = "https://auth.test"
EVERYWHERE = ["header", "cookie:token", "query:token", "subprotocol:bearer"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo(shared_backends: Backends) -> Echo:
    return await shared_backends.echo()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    start_shared_gateway: StartGateway,
    web: Web,
    echo: Echo,
    scripted: Scripted,
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    keys = tmp_path_factory.mktemp("keys") / "jwks.json"
    keys.write_text(key_set(jwk("RS256", "old", kid="old"), jwk("RS256", kid="new"), jwk("ES256", kid="ec")))
    by_secret: dict[str, Any] = {"secret": SECRET, "algorithms": ["HS256"]}
    everywhere = {**by_secret, "from": EVERYWHERE, "forward": {"sub": "X-User", "roles": "X-Roles"}}
    by_keys = {"keys": str(keys), "algorithms": ["RS256", "ES256"], "issuer": ISSUER, "audience": "chat"}
    return await start_shared_gateway(
        {
            "upstreams": {
                "web": {"backends": [web.address]},
                "echo": {"backends": [echo.address]},
                "scripted": {"backends": [scripted.address]},
            },
            "routes": [
                route("secret", "web", auth={"jwt": {**by_secret, "require": {"scope": "chat"}}}),
                route("keys", "web", auth={"jwt": by_keys}),
                route("removed", "web", auth={"jwt": {**everywhere, "remove_token": True}}),
                route("kept", "web", auth={"jwt": everywhere}),
                route("echo", "echo", auth={"jwt": everywhere}),
                route("scripted", "scripted", auth={"jwt": {**everywhere, "remove_token": True}}),
                route("rest", "web", "/"),
            ],
        }
    )


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


NOW = int(time.time())
RIGHT = hs256(scope="chat")
OURS = {"iss": ISSUER, "aud": ["chat", "x"]}
CASES = {
    "right": ("secret", bearer(RIGHT), 0),
    "case of the scheme": ("secret", f"aUTHORIZATION: bEARER {RIGHT}", 0),
    "no token": ("secret", "X: y", 401),
    "another scheme": ("secret", "Authorization: Basic YTpi", 401),
    "two fields": ("secret", f"{bearer(RIGHT)}\r\n{bearer(RIGHT)}", 401),
    "another secret": ("secret", bearer(hs256(secret="x" * 40, scope="chat")), 401),
    "expired": ("secret", bearer(hs256(exp=NOW - 31, scope="chat")), 401),
    "not valid yet": ("secret", bearer(hs256(nbf=NOW + 3600, scope="chat")), 401),
    "none": ("secret", bearer(compact({"alg": "none"}, {"sub": "ann", "scope": "chat"}, lambda text: b"x")), 401),
    "without a scope": ("secret", bearer(hs256()), 403),
    "16 KiB": ("removed", bearer(hs256(scope="chat", x="y" * 12_000)), 0),
    "more than 16 KiB": ("removed", bearer(hs256(scope="chat", x="y" * 12_400)), 401),
    "nested deep": ("secret", bearer(hs256("[" * 9000)), 401),
    "RSA": ("keys", bearer(signed("RS256", header={"kid": "new"}, **OURS)), 0),
    "an older key": ("keys", bearer(signed("RS256", "old", {"kid": "old"}, **OURS)), 0),
    "EC": ("keys", bearer(signed("ES256", header={"kid": "ec"}, **OURS)), 0),
    "no kid": ("keys", bearer(signed("RS256", **OURS)), 0),
    "another key": ("keys", bearer(signed("RS256", "old", {"kid": "new"}, **OURS)), 401),
    "unknown key": ("keys", bearer(signed("RS256", header={"kid": "x"}, **OURS)), 401),
    "public key as secret": ("keys", bearer(hs256(OURS, secret=json.dumps(jwk("RS256")))), 401),
    "another issuer": ("keys", bearer(signed("RS256", iss="x", aud="chat")), 401),
    "another audience": ("keys", bearer(signed("RS256", iss=ISSUER, aud="mail")), 401),
    "cookie": ("removed", f"Cookie: a=1; token={RIGHT}", 0),
    "two cookies": ("removed", f"Cookie: token={RIGHT}; token=x", 401),
    "subprotocol": ("removed", f"Sec-WebSocket-Protocol: bearer, {RIGHT}", 0),
}


@pytest.mark.parametrize("ask", [request, handshake], ids=["plain", "handshake"])
@pytest.mark.parametrize("kept", [False, True], ids=["first", "kept"])
@pytest.mark.parametrize("case", CASES)
async def test_who_may_come_in(
    gateway: Gateway, web: Web, open_connection: Open, ask: Any, kept: bool, case: str
) -> None:
    name, field, status = CASES[case]
    client = await open_connection(gateway)
    if kept:
        await client.send(request("/rest/x"))
        assert (await client.answer()).status == 200
    requests = len(web.connections)
    before = await gateway.scrape()
    await client.send(ask(f"/{name}/ws" if ask is handshake else f"/{name}/x", field))
    result = "denied" if status else "allowed"
    if not status:
        assert (await client.head()).status == (101 if ask is handshake else 200)
    else:
        answer = await client.answer()
        assert answer.status == status
        challenge = answer.head.value("www-authenticate") or ""
        assert challenge.startswith('Bearer realm="gateway"')
        assert ("error=" in challenge) == (case not in ("no token", "another scheme"))
        assert len(web.connections) == requests
        record = await gateway.logged(client=client.name, route=name, status=status)
        assert record["user"] is None
        assert record["reason"]
        if ask is handshake:
            await gateway.counts(before, "gateway_handshakes_total", route=name, result="forbidden")
    await gateway.counts(before, "gateway_auth_total", route=name, method="jwt", result=result)
    token = field.rpartition(" ")[2]
    assert len(token) < 20 or token not in "\n".join((*gateway.stdout.lines, *gateway.stderr.lines))


# --- what the backend gets --------------------------------------------------------------------------------------------


async def at_the_backend(gateway: Gateway, open_connection: Open, target: str, *fields: str) -> dict[str, Any]:
    client = await open_connection(gateway)
    await client.send(request(target, *fields))
    answer = await client.answer()
    assert answer.status == 200, answer.text
    record = await gateway.logged(client=client.name, event="http")
    assert record["path"] == target.partition("?")[0]
    assert record["user"] == "ann"
    got: dict[str, Any] = json.loads(answer.text)
    return got


def fields_of(got: dict[str, Any], *names: str) -> list[str]:
    return [value for name, value in got["headers"] if name.lower() in names]


async def test_claims_in_fields(gateway: Gateway, open_connection: Open) -> None:
    """A client's own never get through, whether the token has the claim or not."""
    forged = ("X-User: root", "x-user: admin", "X-Roles: all", "x_roles: all", "X-User-Name: kept")
    got = await at_the_backend(gateway, open_connection, "/kept/x", bearer(hs256()), *forged)
    assert fields_of(got, "x-user") == ["ann"]
    assert fields_of(got, "x-roles", "x_roles") == []
    assert fields_of(got, "x-user-name") == ["kept"]
    got = await at_the_backend(gateway, open_connection, "/kept/x", bearer(hs256(roles=["a", "b"])), *forged)
    assert fields_of(got, "x-roles") == ['["a","b"]']


@pytest.mark.parametrize(
    ("trailer", "status"),
    [
        ("X-User: root", 400),
        ("x_user: root", 400),
        ("x.user: root", 400),
        ("X-ROLES: all", 400),
        ("X-Client-Cert-San: a", 400),
        ("X-Us: a", 200),
    ],
)
async def test_no_claim_comes_in_a_trailer(gateway: Gateway, open_connection: Open, trailer: str, status: int) -> None:
    client = await open_connection(gateway)
    fields = f"Host: a\r\n{bearer(hs256())}\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(f"POST /kept/x HTTP/1.1\r\n{fields}1\r\na\r\n0\r\n{trailer}\r\n\r\n".encode())
    assert (await client.answer()).status == status


async def test_a_token_in_the_query(gateway: Gateway, open_connection: Open) -> None:
    token = hs256()
    got = await at_the_backend(gateway, open_connection, f"/kept/x?a=1&token={token}")
    assert got["target"] == f"/kept/x?a=1&token={token}"
    got = await at_the_backend(gateway, open_connection, f"/removed/x?a=%41&tok%65n={token}&b;Token={token}")
    assert got["target"] == "/removed/x?a=%41&b"
    got = await at_the_backend(gateway, open_connection, f"/removed/x?token={token}")
    assert got["target"] == "/removed/x"


async def test_every_copy_is_removed(gateway: Gateway, open_connection: Open) -> None:
    token = hs256()
    fields = (bearer(token), "Cookie: a=1; token=b", "Cookie: token=c; d=2", "Sec-WebSocket-Protocol: bearer, x, chat")
    got = await at_the_backend(gateway, open_connection, "/removed/x?token=y&token=z&w", *fields)
    assert got["target"] == "/removed/x?w"
    assert fields_of(got, "authorization") == []
    assert fields_of(got, "cookie") == ["a=1; d=2"]
    assert fields_of(got, "sec-websocket-protocol") == ["chat"]


async def test_the_copies_that_a_backend_gets_are_those_that_were_checked(
    gateway: Gateway, open_connection: Open
) -> None:
    """It may look for one elsewhere first."""
    token = hs256()
    same = (bearer(token), f"Cookie: a=1; token={token}", f"Cookie: token={token}; d=2")
    got = await at_the_backend(gateway, open_connection, f"/kept/x?token={token}", *same)
    assert fields_of(got, "authorization") == [f"Bearer {token}"]
    assert fields_of(got, "cookie") == [f"a=1; token={token}", f"token={token}; d=2"]
    assert got["target"] == f"/kept/x?token={token}"
    others = (bearer(token), "Cookie: a=1; token=b", "Cookie: token=c; d=2")
    got = await at_the_backend(gateway, open_connection, "/kept/x?token=y&w", *others)
    assert fields_of(got, "authorization") == [f"Bearer {token}"]
    assert fields_of(got, "cookie") == ["a=1; d=2"]
    assert got["target"] == "/kept/x?w"


async def test_a_query_is_never_logged(gateway: Gateway, open_connection: Open) -> None:
    """Nor of requests that are refused before there is a route, or whose target is malformed."""
    token = hs256()
    for target in (f"/%zz?token={token}", f"http://other.test/x?token={token}", f"/x#token={token}"):
        client = await open_connection(gateway)
        await client.send(request(target))
        assert (await client.answer()).status == 400
        await gateway.logged(client=client.name)
    assert token not in "\n".join((*gateway.stdout.lines, *gateway.stderr.lines))


# --- subprotocols -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["bearer", "TOKEN", SUBPROTOCOL], SUBPROTOCOL),
        ([SUBPROTOCOL, "bearer", "TOKEN"], SUBPROTOCOL),
        ([SUBPROTOCOL, "bearer.TOKEN"], SUBPROTOCOL),
        (["bearer", "TOKEN"], "bearer"),
        (["bearer", "TOKEN", "unknown"], "bearer"),
    ],
)
async def test_a_client_with_subprotocols(gateway: Gateway, offered: list[str], selected: str) -> None:
    """The client checks that the answer is one that it offered. Several times, as answers are remembered."""
    token = hs256()
    subprotocols: Any = [item.replace("TOKEN", token) for item in offered]
    for _ in range(3):
        async with connect(gateway.ws("/echo/x"), subprotocols=subprotocols, proxy=None) as client:
            assert client.subprotocol == selected
            await client.send("hello")
            assert await client.recv() == "hello"


async def test_a_client_without_a_token(gateway: Gateway) -> None:
    subprotocols: Any = [SUBPROTOCOL, "bearer"]
    with pytest.raises(websockets.InvalidStatus) as caught:
        await connect(gateway.ws("/echo/x"), subprotocols=subprotocols, proxy=None)
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize(
    ("offered", "left"),
    [("bearer, TOKEN, a,b", "a, b"), ("a, bearer.TOKEN", "a"), ("bearer.TOKEN", None), ("bearer, TOKEN", None)],
)
async def test_the_handshake_at_the_backend(
    gateway: Gateway, scripted: Scripted, open_connection: Open, offered: str, left: str | None
) -> None:
    token = hs256()
    scripted.answers(switching(), hold=True)
    client = await open_connection(gateway)
    field = f"Sec-WebSocket-Protocol: {offered.replace('TOKEN', token)}"
    await client.send(handshake("/scripted/x?token=&a", field, "X-User: root", "Cookie: token="))
    answer = await client.head()
    assert answer.status == 101
    assert answer.value("sec-websocket-protocol") == ("bearer" if "bearer," in offered else None)
    head = await scripted.next_head()
    assert head.target == "/scripted/x?a"
    assert head.value("sec-websocket-protocol") == left
    assert head.values("x-user") == ["ann"]
    assert head.value("cookie") is None
    assert token not in head.raw.decode()
    assert (await gateway.logged(client=client.name, event="handshake"))["user"] == "ann"


# --- changes ----------------------------------------------------------------------------------------------------------


async def test_a_reload_with_other_keys(
    start_gateway: StartGateway, web: Web, open_connection: Open, tmp_path: Path
) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text(key_set(jwk("RS256", "old", kid="old")))
    config = {
        "upstreams": {"web": {"backends": [web.address]}},
        "routes": [route("all", "web", "/", auth={"jwt": {"keys": str(keys), "algorithms": ["RS256"]}})],
    }
    gateway = await start_gateway(config)
    client = await open_connection(gateway)

    async def status_of(name: str) -> int:
        await client.send(request("/", bearer(signed("RS256", name, {"kid": name}))))
        return (await client.answer()).status

    assert [await status_of("old"), await status_of("new")] == [200, 401]
    keys.write_text(key_set(jwk("RS256", "new", kid="new")))
    await gateway.reload()
    assert [await status_of("old"), await status_of("new")] == [401, 200]
