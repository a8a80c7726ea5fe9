"""The gateway, nginx and HAProxy make the same of the same bytes, or the table says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.conftest import StartGateway
from tests.peers.differential import (
    answer_body_rows,
    answer_head_rows,
    connection_rows,
    field_rows,
    framing_rows,
    target_rows,
)
from tests.peers.differential.rows import Row
from tests.peers.differential.sights import HAPROXY, NGINX, OURS, differences
from tests.peers.differential.watching import watch
from tests.peers.proxies import start_plain_haproxy, start_plain_nginx
from tests.peers.servers import Servers
from tests.support.gateway import to_one
from tests.support.plain import RawBackend

REQUESTS: list[Row] = [*target_rows.ROWS, *field_rows.ROWS, *framing_rows.ROWS, *connection_rows.ROWS]
ANSWERS: list[Row] = [*answer_head_rows.ROWS, *answer_body_rows.ROWS]
TABLE = {f"request: {row.name}": row for row in REQUESTS} | {f"answer: {row.name}": row for row in ANSWERS}
LEAST_REQUESTS, LEAST_ANSWERS = 150, 60


@dataclass
class Proxies:
    """Three proxies, each with a backend of its own."""

    addresses: dict[str, str]
    backends: dict[str, RawBackend]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxies(
    start_shared_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Proxies]:
    backends = {name: await RawBackend.start() for name in (OURS, NGINX, HAPROXY)}
    servers = Servers()
    gateway = await start_shared_gateway(to_one(backends[OURS].address))
    yield Proxies(
        {
            OURS: gateway.address,
            NGINX: await start_plain_nginx(servers, tmp_path_factory.mktemp("nginx"), backends[NGINX].address),
            HAPROXY: await start_plain_haproxy(servers, tmp_path_factory.mktemp("haproxy"), backends[HAPROXY].address),
        },
        backends,
    )
    await servers.close()
    for backend in backends.values():
        await backend.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", TABLE)
async def test_a_row(proxies: Proxies, name: str) -> None:
    row = TABLE[name]
    async with asyncio.TaskGroup() as group:
        watching = {
            proxy: group.create_task(watch(proxy, proxies.addresses[proxy], proxies.backends[proxy], row))
            for proxy in (OURS, NGINX, HAPROXY)
        }
    ours = watching[OURS].result()
    wrong = []
    for what, is_, right in (
        ("the backend got", ours.exact_requests(), row.expected),
        ("the client got", ours.exact_answers(), row.got),
        ("the client's connection", ours.end, row.end),
    ):
        if is_ != right:
            wrong.append(f"ours: {what} {is_!r}, which should be {right!r}")
    for peer, reason in ((NGINX, row.nginx), (HAPROXY, row.haproxy)):
        found = differences(ours, watching[peer].result())
        if found and not reason:
            wrong += [f"{peer}, {difference}" for difference in found]
        elif reason and not found:
            wrong.append(f"{peer} does the same, and the row has a reason for a difference")
    assert not wrong, "\n".join(wrong)


def test_the_table_is_whole() -> None:
    assert len(REQUESTS) >= LEAST_REQUESTS
    assert len(ANSWERS) >= LEAST_ANSWERS
    assert len(TABLE) == len(REQUESTS) + len(ANSWERS), "two rows have one name"
