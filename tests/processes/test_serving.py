"""One message that cannot be served stops nothing: a worker and the supervisor log it, and serve the next one."""

import asyncio
import socket
from types import SimpleNamespace

import pytest

from gateway.processes.control.channel import Channel
from gateway.processes.control.messages import Configured, Learned, ReopenLogs, Retired, Stop, TakeOver
from gateway.processes.fdstore import DescriptorStore
from gateway.processes.worker import Worker
from gateway.processes.worker_process import WorkerProcess
from gateway.processes.workers import Workers
from gateway.tunnels.table.table import Table
from tests.support.deadline import turn


@pytest.fixture
async def ends():
    """Channels of the supervisor and of a worker's socket."""
    ours, theirs = socket.socketpair()
    supervisor = Channel(ours)
    yield supervisor, theirs
    await supervisor.close()
    theirs.close()


class Log:
    """An access log that cannot be opened anew, for a reason that nobody has thought of."""

    def __init__(self):
        self.closed = False

    def reopen(self):
        raise ZeroDivisionError("the log is odd")

    def close(self):
        self.closed = True


@pytest.fixture
def worker():
    table = Table.create(1, 16)
    made = Worker(0, table, None, SimpleNamespace(relay=None), SimpleNamespace(close=lambda: None), None)
    made._edge = SimpleNamespace(
        log=Log(),
        batch=SimpleNamespace(flush=lambda: None),
        config=SimpleNamespace(close=lambda: None),
        close_idle=lambda: False,
    )
    yield made
    table.close()


async def test_a_worker_serves_the_next_message(ends, worker, caplog):
    supervisor, theirs = ends
    supervisor.send(ReopenLogs())
    supervisor.send(Stop())
    async with asyncio.timeout(10):
        await worker.run(theirs)
    assert worker._edge.log.closed
    assert "worker 0: ReopenLogs failed" in caplog.text
    assert "the log is odd" in caplog.text


async def test_a_worker_ends_that_may_have_taken_over_some_tunnels(ends, worker, monkeypatch):
    """The supervisor sees it end, and the worker before goes on with all of them."""
    supervisor, theirs = ends
    worker._deposits.inherited = lambda: 1 // 0
    supervisor.send(TakeOver(-1))
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(10):
            await worker.run(theirs)


async def test_the_supervisor_hears_the_next_message(ends, caplog):
    supervisor, theirs = ends
    workers = Workers(None, None, None, None, None, [], None, None, None, "", lambda reason: None)
    workers.on_change = lambda: 1 // 0
    worker = WorkerProcess(0, SimpleNamespace(pid=7), supervisor)
    answer = worker.answer_about(3)
    workers.receive_from(worker)
    other = Channel(theirs.dup())
    for message in (Learned([]), Configured(3), Retired()):
        other.send(message)
    async with asyncio.timeout(10):
        await worker.finished.wait()
        assert await answer is None
    assert "worker 0 (pid 7): its message Learned could not be processed" in caplog.text
    await other.close()
    theirs.close()
    async with asyncio.timeout(10):
        assert await worker.answers.get() is None


async def test_a_worker_that_is_dead_before_it_is_configured_has_not_started(ends):
    """The supervisor has learned of it from the first message that it sent, and waits for no answer."""
    supervisor, theirs = ends
    workers = Workers(
        SimpleNamespace(drained_backends={}, drain=None, registry=None),
        None,
        None,
        None,
        SimpleNamespace(sockets={}),
        [],
        None,
        None,
        None,
        "",
        lambda reason: None,
    )
    workers.settings = lambda: None
    workers.stopping = True
    theirs.close()
    async with asyncio.timeout(10):
        assert not await workers.boot(WorkerProcess(0, SimpleNamespace(pid=7), supervisor))


async def test_no_worker_starts_for_a_gateway_that_stops_meanwhile():
    """The slot's last worker died while tunnels moved, and its successor waited for the outcome."""
    store = DescriptorStore(asyncio.get_running_loop(), 1 << 30)
    failures = []
    workers = Workers(None, None, None, None, None, [store], None, None, None, "", failures.append)
    workers.spawn = lambda slot: 1 // 0
    with store.unsettled():
        keeping = asyncio.create_task(workers.keep(0, asyncio.get_running_loop().create_future()))
        await turn()
        workers.stopping = True
    async with asyncio.timeout(10):
        await keeping
    assert workers.kept == set()
    assert failures == []
