"""Workers die and are replaced; those who connect meanwhile wait and are never refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import eventually, within
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import COMMAND, Gateway, to_one
from tests.support.memory import mapped
from tests.support.pace import Pace
from tests.support.ports import free_port
from tests.support.process import is_alive, run
from tests.support.raw import Connection, connect, handshake, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


async def shake_hands(gateway: Gateway) -> None:
    """One handshake, one message, and the end."""
    connection = await connect(gateway.address)
    try:
        await connection.send(handshake("/"))
        assert (await connection.head()).status == 101
        await connection.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    finally:
        await connection.close()


async def until_replaced(gateway: Gateway, before: list[int]) -> float:
    """Kill a worker, and wait until another one serves in its place; seconds that took."""
    killed = await gateway.kill_worker()
    at = time.monotonic()
    assert killed in before

    async def replaced() -> bool:
        workers = (await gateway.api("status"))["workers"]
        return all(worker["ready"] and worker["pid"] != killed for worker in workers)

    await eventually(replaced, "the new worker")
    return time.monotonic() - at


@pytest.mark.parametrize("workers", [1, 2])
async def test_nobody_is_refused_while_a_worker_is_replaced(
    start_gateway: StartGateway, backends: Backends, workers: int
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": workers, **to_one(echo.address)})
    before = await gateway.worker_pids()
    stop = asyncio.Event()
    served: asyncio.Queue[None] = asyncio.Queue()
    lost: list[BaseException] = []

    async def keep_connecting() -> None:
        while not stop.is_set():
            try:
                await shake_hands(gateway)
            except (ConnectionResetError, BrokenPipeError, AssertionError) as error:
                lost.append(error)  # it was in the hands of the worker that died
            else:
                served.put_nowait(None)

    clients = [asyncio.create_task(keep_connecting()) for _ in range(4)]
    for _ in range(20):
        await within(served.get(), "a handshake")
    async with Pace() as pace:
        took = await until_replaced(gateway, before)
    for _ in range(served.qsize() + 50):
        await within(served.get(), "a handshake after that")
        # Whatever went wrong in a client shows here: a refused connection, above all.
        assert not [client for client in clients if client.done() and client.exception()]
    stop.set()
    await asyncio.gather(*clients)
    assert took < 1.0 * pace.slowdown, f"the new worker served after {took:.2f} s, at a pace of {pace.slowdown:.2f}"
    assert len(lost) <= len(clients), lost
    scrape = await gateway.scrape()
    assert scrape.value("gateway_worker_restarts_total") == 1
    assert scrape.value("gateway_workers") == workers


async def test_tunnels_go_on_with_the_next_worker(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 1, **to_one(echo.address)})
    clients = [await open_connection(gateway) for _ in range(30)]
    for client in clients:
        await client.send(handshake("/kept"))
        assert (await client.head()).status == 101
        await client.echoes(from_client(TEXT, b"x"), frame(TEXT, b"x"))
    before = await gateway.until(
        lambda scrape: scrape.value("gateway_handshakes_total", result="upgraded") == 30, "30 handshakes to be counted"
    )
    for _ in range(2):
        await gateway.kill_worker(in_store=True)
        for client in clients:
            await client.echoes(from_client(TEXT, b"again"), frame(TEXT, b"again"))
    after = await gateway.counts(before, "gateway_tunnels_adopted_total", 60)
    assert after.value("gateway_tunnels") == 30
    assert not [name for name, value in before.counters().items() if after.counters().get(name, 0) < value], (
        "a counter went down with the worker"
    )
    await shake_hands(gateway)
    await gateway.counts(before, "gateway_handshakes_total", result="upgraded")
    assert len(gateway.log_records(event="tunnel_end", path="/kept")) == 0
    for client in clients:
        await client.close()
        record = await gateway.logged(event="tunnel_end", client=client.name)
        assert (record["cause"], record["client_frames"]) == ("fin", 3)


async def test_a_worker_that_cannot_boot_ends_the_gateway(start_gateway: StartGateway, backends: Backends) -> None:
    gateway = await start_gateway(
        to_one("127.0.0.1:1", workers=2, access_log={"path": "/nowhere/at/all.log"}), ready=False
    )
    gateway.tolerate("worker|could not be applied|Traceback")
    await gateway.exits(1)
    await gateway.stderr.containing("gateway: worker")
    await gateway.stderr.containing("/nowhere/at/all.log")


async def test_addresses_that_are_taken_are_refused(start_gateway: StartGateway, backends: Backends) -> None:
    """SO_REUSEPORT would let a second gateway of the same user join in silently."""
    echo = await backends.echo()
    first = await start_gateway(to_one(echo.address))
    same_port = await start_gateway(to_one(echo.address, listen=first.config["listen"]), ready=False)
    same_admin = await start_gateway(to_one(echo.address, admin=first.config["admin"]), ready=False)
    await same_port.exits(1)
    line = await same_port.stderr.containing("cannot listen on")
    assert first.address in line
    assert "is another gateway running?" in line
    await same_admin.exits(1)
    assert first.admin in await same_admin.stderr.containing("cannot listen on")
    for _ in range(10):
        await shake_hands(first)


async def test_signals_to_the_whole_group_do_not_end_workers(
    start_gateway: StartGateway, backends: Backends, open_connection: Open
) -> None:
    """A Ctrl-C goes to every process of the terminal; only the supervisor acts."""
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    assert (await client.head()).status == 101
    (worker,) = await gateway.worker_pids()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(worker, number)
        await client.echoes(from_client(TEXT, b"still here"), frame(TEXT, b"still here"))
    assert await gateway.worker_pids() == [worker]


async def test_a_gateway_leaves_no_process_behind_and_its_port_free(
    start_gateway: StartGateway, backends: Backends
) -> None:
    echo = await backends.echo()
    listen = [{"address": f"127.0.0.1:{free_port()}"}]
    for workers in (3, 1):
        gateway = await start_gateway({"workers": workers, **to_one(echo.address, listen=listen)})
        await shake_hands(gateway)
        pids = await gateway.worker_pids()
        assert len(pids) == workers
        gateway.term()
        await gateway.exits(0)
        assert not [pid for pid in pids if is_alive(pid)]


async def test_a_command_that_is_no_template_says_so() -> None:
    status, _, stderr = await run([COMMAND[0], "-m", "gateway.processes.template"])
    assert status != 0
    assert stderr


async def test_no_process_keeps_what_reads_the_configuration(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address), fresh=True)
    await shake_hands(gateway)
    await gateway.reload()
    for pid in (gateway.process.pid, *await gateway.worker_pids()):
        assert "[stack]" in mapped(pid)
        assert "_pydantic_core." not in mapped(pid)
        assert "/yaml/" not in mapped(pid)


async def test_connections_wait_for_the_only_worker(start_gateway: StartGateway, backends: Backends) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    await gateway.kill_worker()
    # At once, when there is no worker at all; the backlog holds them.
    waiting = [asyncio.create_task(shake_hands(gateway)) for _ in range(50)]
    done = await within(asyncio.gather(*waiting, return_exceptions=True), "the new worker")
    refused = [error for error in done if error is not None]
    with contextlib.suppress(IndexError):
        raise refused[0]


@pytest.mark.parametrize("when", ["in the queue", "under way", "while there is none"])
async def test_no_request_is_left_without_an_owner(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, when: str
) -> None:
    """Workers are killed with requests in their listening sockets' queues, or just accepted: each goes to the backend
    in the end, or its connection ends."""
    scripted = await backends.scripted()
    waiting: set[str] = set()

    async def script(backend: Connection) -> None:
        path = (await scripted.request(backend)).first_line.split()[1]
        waiting.add(path)
        await backend.reader.read()
        waiting.discard(path)

    scripted.plays(script)
    gateway = await start_gateway({"workers": 2, **to_one(scripted.address)})
    gateway.tolerate("worker .* was killed by SIGKILL")
    pids = await gateway.worker_pids()

    def signal_all(number: signal.Signals) -> None:
        for pid in pids:
            os.kill(pid, number)

    if when == "in the queue":
        signal_all(signal.SIGSTOP)
    elif when == "while there is none":
        signal_all(signal.SIGKILL)
    clients = {f"/{number}": await open_connection(gateway) for number in range(20)}
    for path, client in clients.items():
        client.writer.write(request(path))
    if when != "while there is none":
        signal_all(signal.SIGKILL)
    ends = {path: asyncio.create_task(client.reader.read()) for path, client in clients.items()}
    await eventually(lambda: all(end.done() or path in waiting for path, end in ends.items()), "an owner of each")
    answers = [end.result() for end in ends.values() if end.done() and end.exception() is None]
    assert answers == [b""] * len(answers)
    if when != "under way":
        assert waiting == clients.keys()
    for end in ends.values():
        end.cancel()
    await asyncio.gather(*ends.values(), return_exceptions=True)
