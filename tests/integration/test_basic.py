"""Users and passwords: let in and refused, on first and kept connections, handshakes and plain HTTP; other users."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from pathlib import Path

import argon2
import bcrypt
import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Web
from tests.support.deadline import DEADLINE_SECONDS, eventually
from tests.support.gateway import Gateway, route
from tests.support.raw import Answer, Connection, handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

SLOW_BCRYPT_COST = 12
"""About a quarter of a second: a test can do something meanwhile."""


def by_argon2(password: str) -> str:
    return argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(password)


def by_bcrypt(password: str, cost: int = 4) -> str:
    """As htpasswd writes it."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode().replace("$2b$", "$2y$")


def field(user: str, password: str) -> str:
    return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def from_address(address: str) -> str:
    return f"X-Forwarded-For: {address}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(shared_backends: Backends) -> Web:
    return await shared_backends.web()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, web: Web, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    users = tmp_path_factory.mktemp("users") / "users"
    users.write_text(
        f"# of the chat\nann:{by_bcrypt('secret')}\n\nbob:{by_argon2('a:b')}\nJürgen:{by_argon2('Grüße')}\n"
        f"slow:{by_bcrypt('slow', SLOW_BCRYPT_COST)}\n"
    )
    return await start_shared_gateway(config(web, users))


def config(web: Web, users: Path) -> dict[str, object]:
    return {
        "trusted_proxies": ["127.0.0.1"],
        "upstreams": {"web": {"backends": [web.address]}},
        "routes": [
            route("users", "web", auth={"basic": {"users": str(users), "realm": "the chat"}}),
            route("rest", "web", "/"),
        ],
    }


CASES = [
    ([field("ann", "secret")], 200),
    ([field("bob", "a:b")], 200),
    ([field("Jürgen", "Grüße")], 200),
    ([field("ann", "wrong")], 401),
    ([field("bob", "secret")], 401),
    ([field("eve", "secret")], 401),
    ([field("ann", "x" * 100)], 401),
    ([field("bob", "x" * 8000)], 401),
    (["X: none"], 401),
    (["Authorization: Bearer secret"], 401),
    (["Authorization: Basic ?"], 401),
    ([field("ann", "secret"), field("ann", "secret")], 400),
]


@pytest.mark.parametrize("ask", [request, handshake], ids=["plain", "handshake"])
@pytest.mark.parametrize("kept", [False, True], ids=["first", "kept"])
@pytest.mark.parametrize(("number", "fields", "status"), [(number, *case) for number, case in enumerate(CASES)])
async def test_who_may_come_in(
    gateway: Gateway, web: Web, open_connection: Open, ask, kept: bool, number: int, fields: list[str], status: int
) -> None:
    client = await open_connection(gateway)
    if kept:
        await client.send(request("/rest/x"))
        assert (await client.answer()).status == 200
    requests = len(web.connections)
    before = await gateway.scrape()
    # Each case has an address, so that guesses are counted apart; and each spends its own connection to the backend.
    await client.send(ask("/users/ws" if ask is handshake else "/users/x", *fields, from_address(f"192.0.2.{number}")))
    result = "allowed" if status == 200 else "denied"
    if status == 200:
        assert (await client.head()).status == (101 if ask is handshake else 200)
    else:
        answer = await client.answer()
        assert answer.status == status
        assert answer.head.value("www-authenticate") == (
            'Basic realm="the chat", charset="UTF-8"' if status == 401 else None
        )
        assert len(web.connections) == requests
    await gateway.counts(before, "gateway_auth_total", route="users", method="basic", result=result)


async def test_the_log_says_who(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(request("/users/log", field("bob", "a:b")))
    assert (await client.answer()).status == 200
    assert (await gateway.logged(event="http", path="/users/log"))["user"] == "bob"
    await client.send(request("/users/denied", field("bob", "hunter2"), from_address("203.0.113.1")))
    assert (await client.answer()).status == 401
    record = await gateway.logged(event="http", path="/users/denied")
    assert record["user"] is None
    assert record["reason"] == "wrong user name or password"


async def test_the_backend_gets_the_field(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(request("/users/x", field("bob", "a:b")))
    headers = json.loads((await client.answer()).text)["headers"]
    assert field("bob", "a:b").split(": ") in headers


async def test_a_request_one_byte_at_a_time(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    for byte in request("/users/x", field("ann", "secret")):
        await client.send(bytes((byte,)))
    assert (await client.answer()).status == 200


async def test_requests_behind_one_that_waits(gateway: Gateway, open_connection: Open) -> None:
    """They are answered in order."""
    client = await open_connection(gateway)
    await client.send(
        request("/users/1", field("ann", "one"), from_address("203.0.113.2"))
        + request("/users/2", field("ann", "secret"))
        + request("/users/3", field("ann", "three"), from_address("203.0.113.2"))
    )
    assert [(await client.answer()).status for _ in range(3)] == [401, 200, 401]


async def test_guesses_are_bounded(gateway: Gateway, web: Web, open_connection: Open) -> None:
    client = await open_connection(gateway)

    async def ask(user: str, password: str, address: str) -> Answer:
        await client.send(request("/users/x", field(user, password), from_address(address)))
        return await client.answer()

    assert (await ask("ann", "secret", "192.0.2.77")).status == 200
    for number in range(10):
        assert (await ask("ann", f"guess{number}", f"2001:db8::{number:x}")).status == 401
    requests = len(web.connections)
    answer = await ask("bob", "guess", "2001:db8::ffff")
    assert answer.status == 429
    assert 50 < int(answer.head.value("retry-after") or 0) <= 60
    assert len(web.connections) == requests
    assert (await ask("bob", "guess", "2001:db8:0:1::")).status == 401
    assert (await ask("ann", "secret", "2001:db8::ffff")).status == 200  # known to be right


async def test_clients_that_go_away(gateway: Gateway, web: Web, open_connection: Open) -> None:
    """What was asked for them alone is dropped, and the next ones do not wait for that."""
    requests = len(web.connections)
    for number in range(20):
        client = await open_connection(gateway)
        address = from_address(f"198.51.100.{number}")
        await client.send(request(f"/users/gone{number}", field("slow", str(number)), address))
        await client.close()
    for number in range(20):
        assert (await gateway.logged(event="http", path=f"/users/gone{number}"))["status"] == 499
    client = await open_connection(gateway)
    await client.send(request("/users/x", field("bob", "a:b")))
    assert (await client.answer()).status == 200
    assert len(web.connections) <= requests + 1


async def test_relaying_goes_on_meanwhile(gateway: Gateway, open_connection: Open) -> None:
    slow = await open_connection(gateway)
    await slow.send(request("/users/slow", field("slow", "wrong"), from_address("203.0.113.3")))
    waiting = asyncio.create_task(slow.answer())
    client = await open_connection(gateway)
    answered = 0
    while not waiting.done():
        await client.send(request("/rest/x"))
        assert (await client.answer()).status == 200
        answered += 1
    assert (await waiting).status == 401
    assert answered > 1


# --- other users ------------------------------------------------------------------------------------------------------


async def status_of(client: Connection, user: str, password: str) -> int:
    await client.send(request("/users/x", field(user, password)))
    return (await client.answer()).status


async def test_users_change_under_a_running_gateway(
    start_gateway: StartGateway, web: Web, open_connection: Open, tmp_path: Path
) -> None:
    users = tmp_path / "users"
    users.write_text(f"ann:{by_bcrypt('old')}\n")
    gateway = await start_gateway({"workers": 2, **config(web, users)})
    client = await open_connection(gateway)
    assert await status_of(client, "ann", "old") == 200

    async def shows(entries: int, error: bool) -> None:
        """Wait until the gateway has read the file."""

        async def shown() -> bool:
            (found,) = (await gateway.api("status"))["credentials"]
            return (found["entries"], found["error"] is not None) == (entries, error)

        await eventually(shown, "the file to be read", 2 * DEADLINE_SECONDS)

    # A password changes and a user comes.
    users.write_text(f"ann:{by_bcrypt('new')}\nbob:{by_argon2('bob')}\n")
    await shows(2, False)
    assert await status_of(client, "ann", "old") == 401
    assert await status_of(client, "ann", "new") == 200
    assert await status_of(client, "bob", "bob") == 200

    # The file breaks: those before stay in use, also in a worker that starts then.
    users.write_text("ann:{SHA}broken\n")
    await shows(2, True)
    await gateway.until(
        lambda scrape: scrape.value("gateway_credential_file_errors_total", file=str(users)) == 1, "the error"
    )
    gateway.tolerate("ERROR.*(credentials: .*users, line 1|worker 0 .* was killed)")
    for index in range(2):
        await gateway.kill_worker(index)
    client = await open_connection(gateway)
    assert await status_of(client, "ann", "new") == 200

    # Nobody may come in any more.
    users.write_text("")
    await shows(0, False)
    assert await status_of(client, "ann", "new") == 401

    # A reload reads it, too, and at once.
    users.write_text(f"eve:{by_bcrypt('eve')}\n")
    await gateway.reload()
    assert await status_of(client, "eve", "eve") == 200
