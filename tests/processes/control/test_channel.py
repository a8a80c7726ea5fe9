"""What supervisor and worker say to each other, over a socket pair."""

import asyncio
import json
import os
import re
import resource
import socket
import struct

import pytest

from gateway.config import Address
from gateway.config.settings import Settings
from gateway.processes.control.channel import _HEAD, Channel
from gateway.processes.control.messages import (
    NO_DESCRIPTOR,
    Accept,
    Configure,
    Configured,
    Drain,
    DrainBackends,
    Drained,
    Failed,
    Forget,
    Listen,
    Release,
    Released,
    ReopenLogs,
    Resume,
    Retire,
    Retired,
    Stop,
    TakenOver,
    TakeOver,
    Unlisten,
)
from gateway.processes.control.wire import Unknown, pack, unpack
from gateway.routing.registry import Registry
from tests.support.deadline import turn

from ...routing.tables import config_of


@pytest.fixture
async def pair():
    """A channel, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    await channel.close()
    theirs.close()


async def both(theirs):
    return Channel(theirs)


async def received(channel):
    async with asyncio.timeout(10):
        return await channel.receive()


def settings_of(*args, **keys):
    return Settings.of(config_of(*args, **keys))


def large_config():
    return settings_of([{"name": f"route-{i}", "match": {"path": f"/{i}/" + "x" * 100}} for i in range(1000)])


@pytest.mark.parametrize(
    "message",
    [
        Drain(30.0, 1012),
        DrainBackends(frozenset((1, 3)), 30.0, 1012),
        Drained(),
        Unlisten(Address("::1", 8080)),
        Release(200),
        TakenOver((1, 1 << 48 | 2)),
        Accept(),
        Forget((3,)),
        Resume(),
        Retire(),
        Retired(),
        Stop(),
        ReopenLogs(),
        Configured(3),
        Failed(4, "the access log cannot be opened: é"),
        Configure(5, settings_of([{}], timeouts={"idle": "1h"}), Registry(9, 9, ["r0"], [("chat", "127.0.0.1:9001")])),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_each_message(pair, message):
    await goes_both_ways(pair, message)


async def test_a_large_message(pair):
    await goes_both_ways(pair, Configure(6, large_config(), Registry(9, 9), takes_over=True))


async def goes_both_ways(pair, message):
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
    recorder = Channel(ours)
    recorder.send(Failed(1, "why"))
    await recorder.close()
    data = wire.recv(65536)
    wire.close()
    receiving = asyncio.create_task(received(channel))
    for at in range(len(data)):
        assert not receiving.done()
        theirs.send(data[at : at + 1])
        await turn()
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
    await turn()
    theirs.close()
    assert await received(channel) is None
    for _ in range(3):
        channel.send(Configured(1))
        await turn()


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
    channel = Channel(ours)
    await channel.close()
    theirs.close()
    assert set(os.listdir("/proc/self/fd")) <= before


# --- what cannot be understood --------------------------------------------------------------------------------------

NO_MESSAGES = [
    (b"", "0 bytes that are not a message"),
    (b"\x80\x04N.", r"4 bytes that are not a message: b'\\x80\\x04N\.'"),
    (b"[" * 100_000, "100000 bytes that are not a message"),
    (b"1", "1 bytes that are not a message"),
    (b"[1,[]]", "an unknown message: '1'"),
    (b'["Explode",[3]]', "an unknown message: 'Explode'"),
    (b'["Configured",[]]', r"Configured: list\[0\] in place of generation"),
    (b'["Configured",["3"]]', r"Configured.generation: str\[1\] is not int"),
]


@pytest.mark.parametrize(("data", "error"), NO_MESSAGES)
def test_what_is_no_message_says_what_it_was(data, error):
    with pytest.raises(Unknown, match=error):
        unpack(data)


@pytest.mark.parametrize(("data", "error"), NO_MESSAGES)
async def test_what_is_no_message_is_logged_and_skipped(pair, caplog, data, error):
    channel, theirs = pair
    theirs.send(_HEAD.pack(len(data), False) + data[:70_000])
    theirs.sendall(data[70_000:])
    whole = pack(Configured(1))
    theirs.send(_HEAD.pack(len(whole), False) + whole)
    assert await received(channel) == Configured(1)
    assert re.search(f"the control channel skipped .*{error}", caplog.text)


async def test_a_descriptor_of_what_is_no_message_is_closed(pair):
    """And the next one is not taken for it."""
    channel, theirs = pair
    before = len(os.listdir("/proc/self/fd"))
    first, second = os.memfd_create("first"), os.memfd_create("second")
    for kind, fd in (("Explode", first), ("Released", second), ("Stop", first)):
        data = json.dumps([kind, [-1] if kind == "Released" else []]).encode()
        socket.send_fds(theirs, [_HEAD.pack(len(data), True) + data], [fd])
        os.close(fd) if kind != "Explode" else None
    message = await received(channel)
    assert os.readlink(f"/proc/self/fd/{message.fd}").startswith("/memfd:second")
    os.close(message.fd)
    assert await received(channel) == Stop()
    assert len(os.listdir("/proc/self/fd")) == before


# --- descriptors ------------------------------------------------------------------------------------------------------


async def test_a_socket_comes_along(pair):
    channel, theirs = pair
    other = await both(theirs)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        channel.send(Listen(address, server.fileno()))
    message = await received(other)
    assert isinstance(message, Listen)
    assert message.address == address
    with socket.socket(fileno=message.fd) as arrived, socket.create_connection(arrived.getsockname()):
        assert not os.get_inheritable(message.fd)
        arrived.accept()[0].close()
    await other.close()


async def test_every_socket_comes_with_its_message(pair):
    """Between messages of any size, and more than the socket pair holds."""
    channel, theirs = pair
    before = len(os.listdir("/proc/self/fd"))
    files = [os.memfd_create(str(n)) for n in range(300)]
    for n, fd in enumerate(files):
        channel.send(Listen(Address("127.0.0.1", n + 1), fd))
        channel.send(Failed(n, "x" * (n * 17 % 5000)))
        os.close(fd)
    other = await both(theirs)
    for n in range(300):
        message = await received(other)
        assert os.readlink(f"/proc/self/fd/{message.fd}").startswith(f"/memfd:{n} ")
        os.close(message.fd)
        assert await received(other) == Failed(n, "x" * (n * 17 % 5000))
    await other.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


async def test_sockets_that_never_arrive_are_closed(pair):
    channel, theirs = pair
    before = len(os.listdir("/proc/self/fd"))
    fd = os.memfd_create("x")
    for _ in range(2000):
        channel.send(Listen(Address("127.0.0.1", 1), fd))
    other = await both(theirs)
    await received(other)
    await other.close()
    await turn()
    channel.send(Stop())
    assert await received(channel) is None
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("kind", [Released, TakeOver])
async def test_a_parcel_comes_along(pair, kind):
    channel, theirs = pair
    other = await both(theirs)
    fd = os.memfd_create("parcel")
    channel.send(kind(fd))
    message = await received(other)
    assert isinstance(message, kind)
    assert os.readlink(f"/proc/self/fd/{message.fd}").startswith("/memfd:parcel")
    os.close(fd)
    os.close(message.fd)
    await other.close()


async def test_a_socket_without_a_descriptor_is_said_to_be_lost(pair):
    channel, theirs = pair
    other = await both(theirs)
    channel.send(Listen(Address("127.0.0.1", 1), 10**6))
    assert await received(other) == Listen(Address("127.0.0.1", 1), NO_DESCRIPTOR)
    await other.close()


async def test_a_descriptor_that_there_is_no_room_for_is_lost_alone(pair):
    """Of a message in pieces, too, the last of which is read together with the next message."""
    channel, theirs = pair
    data = pack(Released(NO_DESCRIPTOR))
    data = _HEAD.pack(len(data), True) + data
    for name, first in (("first", 9), ("second", len(data))):
        fd = os.memfd_create(name)
        socket.send_fds(theirs, [data[:first]], [fd])
        os.close(fd)
        if data[first:]:
            theirs.send(data[first:])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)  # the lowest number that is free
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        channel._read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert await received(channel) == Released(NO_DESCRIPTOR)
    message = await received(channel)
    assert os.readlink(f"/proc/self/fd/{message.fd}").startswith("/memfd:second")
    os.close(message.fd)


# --- a channel that another program goes on with ----------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 6, 40])
async def test_what_was_read_goes_along(cut):
    """A message received in part is completed by the next owner of the channel, behind the earlier ones."""
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours)
        got = []

        async def listen():
            while (message := await channel.receive()) is not None:
                got.append(message)

        listening = asyncio.create_task(listen())
        probe = Channel(theirs.dup())
        probe.send(Configured(1))
        await probe.close()
        body = pack(Failed(2, "x" * 100))
        data = _HEAD.pack(len(body), False) + body
        theirs.sendall(data[:cut])
        while not got or (cut and not channel._received):  # nothing tells
            await turn()
        carried = await channel.suspend()
        assert got == [Configured(1)]
        assert carried == data[:cut]
        theirs.sendall(data[cut:])
        listening.cancel()
        again = Channel(ours.dup(), carried)
        assert await received(again) == Failed(2, "x" * 100)
        await again.close()
        channel.proceed()
        await channel.close()


@pytest.mark.parametrize("cut", [1, 4, 5, 20])
async def test_a_descriptor_that_came_before_is_lost_alone(cut):
    """It came with the first byte, and was closed when the program before became another one."""
    ours, theirs = socket.socketpair()
    with theirs:
        data = pack(Released(NO_DESCRIPTOR))
        data = _HEAD.pack(len(data), True) + data
        channel = Channel(ours, data[:cut])
        fd = os.memfd_create("second")
        theirs.sendall(data[cut:])
        socket.send_fds(theirs, [data], [fd])
        os.close(fd)
        assert await received(channel) == Released(NO_DESCRIPTOR)
        message = await received(channel)
        assert os.readlink(f"/proc/self/fd/{message.fd}").startswith("/memfd:second")
        os.close(message.fd)
        await channel.close()


async def test_suspending_waits_until_all_is_sent(pair):
    channel, theirs = pair
    channel.send(Configure(6, large_config(), Registry(9, 9)))
    suspended = asyncio.create_task(channel.suspend())
    await turn()
    assert not suspended.done()
    other = await both(theirs)
    assert isinstance(await received(other), Configure)
    assert await suspended == b""
    await other.close()
    channel.proceed()
    assert await received(channel) is None


async def test_suspending_what_is_gone(pair):
    channel, theirs = pair
    theirs.close()
    assert await received(channel) is None
    assert await channel.suspend() == b""
    channel.proceed()
