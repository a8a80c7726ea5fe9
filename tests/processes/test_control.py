"""What supervisor and worker say to each other, over a socket pair."""

import asyncio
import os
import socket
import struct

import pytest

from gateway.processes.control import (
    Channel,
    Configure,
    Configured,
    Drain,
    DrainBackends,
    Drained,
    Failed,
    ReopenLogs,
    Stop,
)
from gateway.routing.registry import Registry

from ..routing.tables import config_of


@pytest.fixture
async def pair():
    """A channel, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    yield channel, theirs
    await channel.close()
    theirs.close()


async def both(theirs):
    return await Channel.over(theirs)


async def received(channel):
    async with asyncio.timeout(10):
        return await channel.receive()


def large_config():
    return config_of([{"name": f"route-{i}", "match": {"path": f"/{i}/" + "x" * 100}} for i in range(1000)])


@pytest.mark.parametrize(
    "message",
    [
        Drain(30.0, 1012),
        DrainBackends(frozenset((1, 3)), 30.0, 1012),
        Drained(),
        Stop(),
        ReopenLogs(),
        Configured(3),
        Failed(4, "the access log cannot be opened: é"),
        Configure(5, config_of([{}], timeouts={"idle": "1h"}), Registry(9, 9, ["r0"], [("chat", "127.0.0.1:9001")])),
        Configure(6, large_config(), Registry(9, 9)),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_each_message(pair, message):
    channel, theirs = pair
    other = await both(theirs)
    channel.send(message)
    assert await received(other) == message
    other.send(message)
    assert await received(channel) == message
    await other.close()


async def test_messages_stay_in_order(pair):
    channel, theirs = pair
    other = await both(theirs)
    sent = [Configured(i) for i in range(100)]
    for message in sent:
        channel.send(message)
    assert [await received(other) for _ in sent] == sent
    await other.close()


async def test_a_message_in_pieces(pair):
    channel, theirs = pair
    ours, wire = socket.socketpair()
    recorder = await Channel.over(ours)
    recorder.send(Failed(1, "why"))
    await recorder.close()
    data = wire.recv(65536)
    wire.close()
    receiving = asyncio.create_task(received(channel))
    for at in range(len(data)):
        assert not receiving.done()
        theirs.send(data[at : at + 1])
        await asyncio.sleep(0)
    assert await receiving == Failed(1, "why")


@pytest.mark.parametrize("before", [b"", b"\0", struct.pack("!I", 100), struct.pack("!I", 100) + b"half"])
async def test_the_other_process_is_gone(pair, before):
    channel, theirs = pair
    theirs.send(before)
    theirs.close()
    assert await received(channel) is None
    assert await received(channel) is None


async def test_the_other_process_died_with_something_unread(pair):
    channel, theirs = pair
    channel.send(Stop())
    await asyncio.sleep(0)
    theirs.close()
    assert await received(channel) is None
    for _ in range(3):
        channel.send(Configured(1))
        await asyncio.sleep(0)


async def test_what_was_sent_is_delivered_before_the_end(pair):
    channel, theirs = pair
    message = Configure(7, large_config(), Registry(9, 9))
    channel.send(message)
    closing = asyncio.create_task(channel.close())
    other = await both(theirs)
    assert await received(other) == message
    assert await received(other) is None
    await closing
    await other.close()


async def test_a_channel_owns_its_socket():
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    await channel.close()
    theirs.close()
    assert set(os.listdir("/proc/self/fd")) <= before
