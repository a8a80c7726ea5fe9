"""Plain requests on kept connections, through reloads and upgrades: none of them fails."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import within
from tests.support.gateway import Gateway, to_one
from tests.support.raw import Connection, request

from .upgrades import upgrade

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = 30
ROUNDS = 3


async def post(client: Connection, body: bytes) -> None:
    """One POST, whose answer has to be the backend's."""
    await client.send(request("/a/upload", f"Content-Length: {len(body)}", method="POST") + body)
    answer = await within(client.answer(), "an answer")
    assert answer.status == 200, answer
    assert hashlib.sha256(body).hexdigest() in answer.text


async def keep_posting(client: Connection, over: asyncio.Event, seed: int) -> int:
    """POST again and again on one connection, with small pauses. :returns: how often"""
    rng = random.Random(seed)
    count = 0
    while not over.is_set():
        await post(client, rng.randbytes(rng.choice((1, 100, 40_000))))
        count += 1
        await asyncio.sleep(rng.choice((0, 0, 0.001, 0.02)))  # the pace of a client that is tested
    return count


async def change(gateway: Gateway, how: str) -> None:
    if how == "upgrade":
        await upgrade(gateway)
    else:
        await gateway.reload()


@pytest.mark.parametrize("how", ["reload", "upgrade"])
async def test_posts_on_kept_connections(
    start_gateway: StartGateway, open_connection: Open, backends: Backends, how: str
) -> None:
    web = await backends.web()
    gateway = await start_gateway({**to_one(web.address), "workers": 2})
    clients = [await open_connection(gateway) for _ in range(CLIENTS)]
    over = asyncio.Event()
    tasks = [asyncio.create_task(keep_posting(client, over, seed)) for seed, client in enumerate(clients)]
    for _ in range(ROUNDS):
        await change(gateway, how)
        await asyncio.sleep(0.2)  # of the load
    over.set()
    assert all(count for count in await asyncio.gather(*tasks))


async def test_a_connection_moves_between_two_requests(
    start_gateway: StartGateway, open_connection: Open, backends: Backends
) -> None:
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    idle, begun, unused = [await open_connection(gateway) for _ in range(3)]
    await post(idle, b"first")
    await post(begun, b"first")
    whole = request("/a/upload", "Content-Length: 6", method="POST") + b"second"
    await begun.send(whole[:30])
    await upgrade(gateway)
    await post(idle, b"second")
    await begun.send(whole[30:])
    assert hashlib.sha256(b"second").hexdigest() in (await begun.answer()).text
    await post(unused, b"only")


async def test_a_request_that_waits_unread_moves_with_its_connection(
    start_gateway: StartGateway, open_connection: Open, backends: Backends
) -> None:
    web = await backends.web()
    gateway = await start_gateway(to_one(web.address))
    client = await open_connection(gateway)
    await post(client, b"first")
    (pid,) = await gateway.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        body = b"unread"
        await client.send(request("/a/upload", f"Content-Length: {len(body)}", method="POST") + body)
        start = len(gateway.stderr.lines)
        gateway.process.signal(signal.SIGUSR2)
        await gateway.stderr.containing("this process becomes it now", start)
    finally:
        os.kill(pid, signal.SIGCONT)
    answer = await within(client.answer(), "an answer")
    assert hashlib.sha256(body).hexdigest() in answer.text
