"""Plain requests on kept connections, through reloads, upgrades and the death of a worker.

``tests/peers/test_site.py`` does it for longer, with other people's servers and clients.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import within
from tests.support.gateway import to_one
from tests.support.posting import Posting
from tests.support.raw import Connection, request
from tests.support.sockets import client_ports

from .upgrades import status_of_upgrade, upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

CLIENTS = 30


async def post(client: Connection, body: bytes) -> None:
    """One POST, whose answer has to be the backend's."""
    await client.send(request("/a/upload", f"Content-Length: {len(body)}", method="POST") + body)
    answer = await within(client.answer(), "an answer")
    assert answer.status == 200, answer
    assert hashlib.sha256(body).hexdigest() in answer.text


@pytest.mark.parametrize(("how", "times"), [("reload", 3), ("upgrade", 2)])
async def test_posts_on_kept_connections(start_gateway: StartGateway, backends: Backends, how: str, times: int) -> None:
    web = await backends.web()
    gateway = await start_gateway({**to_one(web.address), "workers": 2})
    async with Posting(gateway.address, "/a/upload", CLIENTS) as posting:
        for _ in range(times):
            await (upgrade(gateway) if how == "upgrade" else gateway.reload())
            await posting.goes_on()
    assert not posting.failures, posting.errors
    assert web.uploads == posting.answered
    assert max(web.uploads.values()) == 1


async def test_a_worker_that_is_killed_takes_only_the_requests_that_it_had(
    start_gateway: StartGateway, backends: Backends
) -> None:
    web = await backends.web()
    gateway = await start_gateway({**to_one(web.address), "workers": 2})
    async with Posting(gateway.address, "/a/upload", CLIENTS) as posting:
        gateway.tolerate("worker .* was killed by SIGKILL")
        pid = (await gateway.worker_pids())[0]
        os.kill(pid, signal.SIGSTOP)  # it accepts nothing from now on
        its = client_ports(pid, gateway.address)
        os.kill(pid, signal.SIGKILL)
        await gateway.until(lambda scrape: scrape.value("gateway_worker_restarts_total") == 1, "the new worker")
        await posting.goes_on()
    assert 0 < len(its) < CLIENTS  # or this shows nothing
    assert posting.failures.keys() <= its, posting.errors
    assert set(posting.failures.values()) <= {1}
    assert posting.answered.keys() <= web.uploads.keys() <= posting.answered.keys() | posting.unanswered
    assert max(web.uploads.values()) == 1  # what was answered, was not lost; what was lost, was not sent twice


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
        start, since = len(gateway.stderr.lines), time.time()
        gateway.process.signal(signal.SIGUSR2)
        await gateway.stderr.containing("switching to it now", start)
    finally:
        os.kill(pid, signal.SIGCONT)
    answer = await within(client.answer(), "an answer")
    assert hashlib.sha256(body).hexdigest() in answer.text
    assert (await status_of_upgrade(gateway, since))["ok"]
