"""The supervisor is started again, and something has changed meanwhile: its configuration, or who is still there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.deadline import eventually
from tests.support.frames import CLOSE, close, frame
from tests.support.gateway import NO_PINGS, command, to_one
from tests.support.numbered import Play, all_complete
from tests.support.ports import free_port
from tests.support.raw import connect, handshake

from .services import MakeService, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")


def ports_in_store(service: Service) -> list[int]:
    """Of the TCP listeners that the service manager keeps."""
    found = []
    for fd in service.keeper.of_kind("listen"):
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family == socket.AF_INET:
                found.append(sock.getsockname()[1])
    return found


@pytest.mark.either_build
async def test_listeners_and_admin_may_change_meanwhile(make_service: MakeService, play: Play, tmp_path: Path) -> None:
    """Those that stay go on, what waits there included; others are opened or closed."""
    service = make_service()
    addresses = [f"127.0.0.1:{free_port()}", f"unix:{tmp_path}/front", f"127.0.0.1:{free_port()}"]
    config = {"workers": 2, "listen": [{"address": address} for address in addresses[:2]], **NO_PINGS}
    gateway = await service.start({**config, **to_one(play.address)})
    tunnels = await play.open_many(addresses[0], 20)
    await service.stored(20)
    await service.die()
    waiting = [await connect(address) for address in addresses[:2]]
    changed = {**gateway.config, "listen": [{"address": address} for address in (addresses[1], addresses[2])]}
    gateway = await service.start({**changed, "admin": {"address": f"127.0.0.1:{free_port()}"}})
    assert len(service.keeper.of_kind("listen")) == 1 + 2
    assert await waiting[0].ends() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect(addresses[0])
    for connection in (waiting[1], await connect(addresses[2])):
        await connection.send(handshake().replace(b"Version: 13", b"Version: 7"))
        assert (await connection.head()).status == 426
        await connection.close()
    await waiting[0].close()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)
    gateway.config["listen"] = [{"address": address} for address in addresses[:2]]
    gateway.write(gateway.config)
    await gateway.reload()
    port = int(addresses[0].rpartition(":")[2])
    await eventually(lambda: ports_in_store(service) == [port, port], "the store to follow the reload")
    await service.die()
    waiting = [await connect(address) for address in addresses[:2]]
    await service.start()
    for connection in waiting:
        await connection.close()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


async def test_what_cannot_be_carried_on_is_ended_with_a_close_frame(make_service: MakeService, play: Play) -> None:
    """The table has room for as many workers as there were."""
    service = make_service()
    gateway = await service.start({"workers": 1, **NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 10)
    await service.stored(10)
    received: list[tuple[bytearray, bytearray]] = []
    for tunnel in tunnels:
        received.append((bytearray(), bytearray()))
        for end, into in zip(tunnel.ends, received[-1], strict=True):
            end.data_received = into.extend  # type: ignore[method-assign]
    await service.die()
    names = set(service.keeper.names)
    successor = await service.start({**gateway.config, "workers": 2})
    successor.tolerate("lost 10 tunnels of the previous gateway .20 sides were sent a Close frame")
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels), "all ends")
    for client, backend in received:
        assert bytes(client) == frame(CLOSE, close(1012))
        assert len(backend) == 2 + 4 + 2
        assert backend[0] == 0x80 | CLOSE
    await successor.stderr.containing("lost 10 tunnels")
    assert not names & set(service.keeper.names)
    tunnels = await play.open_many(successor.address, 10)
    await service.stored(10)
    await service.die()
    await service.start()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


@pytest.mark.either_build
async def test_what_the_gateway_knew_is_known(make_service: MakeService, play: Play) -> None:
    """A backend that was drained stays so; what is not of this program is left alone."""
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    status, _, err = await command("drain", "--backend", play.address, "-c", gateway.file)
    assert status == 0, err
    started = (await gateway.api("status"))["uptime"]
    await service.die()
    gateway = await service.start()
    assert (await gateway.api("status"))["uptime"] >= started
    connection = await gateway.connect()
    await connection.send(handshake("/"))
    assert (await connection.head()).status == 503
    await connection.close()


async def test_ends_that_went_away_meanwhile_are_noticed(make_service: MakeService, play: Play) -> None:
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 40)
    await service.stored(40)
    await service.die()
    for n, tunnel in enumerate(tunnels[:20]):
        tunnel.ends[n % 2].transport.abort()
    for tunnel in tunnels[20:]:
        tunnel.say()
    gateway = await service.start()
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels[:20]), "the other ends")
    await all_complete(tunnels[20:])
    await gateway.tunnels(20)
