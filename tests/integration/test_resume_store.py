"""What a service manager has in its store for the next supervisor, and a store that has no room for it."""

from __future__ import annotations

import os
import signal

import pytest

from gateway.tunnels.table.layout import H_KEPT
from tests.support.deadline import DEADLINE_SECONDS, eventually
from tests.support.frames import CLOSE, close, frame
from tests.support.gateway import NO_PINGS, to_one
from tests.support.numbered import Play, all_complete
from tests.support.raw import connect

from .services import MakeService, Service
from .upgrades import upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


async def test_an_upgrade_goes_on_with_the_store(make_service: MakeService, play: Play) -> None:
    service = make_service()
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    before = await play.open_many(gateway.address, 50)
    await service.stored(50)
    names = list(service.keeper.names_seen)
    await upgrade(gateway)
    after = await play.open_many(gateway.address, 50)
    await service.stored(100)
    assert service.keeper.names_seen == names, "something was sent twice"
    await service.die()
    gateway = await service.start()
    for tunnel in (*before, *after):
        tunnel.say()
    await all_complete((*before, *after))
    await gateway.tunnels(100)


async def test_tunnels_that_end_leave_the_store(make_service: MakeService, play: Play) -> None:
    """The manager keeps nothing of them for long, though the tunnels beside them go on."""
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    stay = await play.open_many(gateway.address, 20)
    leave = await play.open_many(gateway.address, 300)
    await service.stored(320)
    for tunnel in leave:
        tunnel.ends[0].transport.close()
    await gateway.tunnels(20)
    await eventually(lambda: service.keeper.tunnels() == 20, "connections that have ended to be let go")
    await service.die()
    await service.start()
    for tunnel in stay:
        tunnel.say()
    await all_complete(stay)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_orderly_end_leaves_nothing(make_service: MakeService, play: Play, number: signal.Signals) -> None:
    service = make_service()
    config = to_one(play.address, drain={"period": "1s"}, timeouts={"close": "500ms"})
    gateway = await service.start({"workers": 2, **NO_PINGS, **config})
    tunnels = await play.open_many(gateway.address, 20)
    await service.stored(20)
    assert service.keeper.names
    gateway.process.signal(number)
    await gateway.exits(0)
    await eventually(lambda: not service.keeper.names, "everything to be removed")
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels), "all ends")


async def test_a_tunnel_whose_connections_are_not_in_store_is_lost(make_service: MakeService, play: Play) -> None:
    service = make_service()
    gateway = await service.start({**NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, 20)
    await service.stored(20)
    await service.die()
    for name, fd in [each for each in service.keeper.kept if "tunnels" in each[0]]:
        os.close(fd)
        service.keeper.kept.remove((name, fd))
    gateway = await service.start()
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels), "all ends")
    scrape = await gateway.until(
        lambda now: now.value("gateway_tunnels_closed_total", cause="worker_lost") == 20, "losses to be counted"
    )
    assert scrape.value("gateway_tunnels_adopted_total") == 0


async def test_a_busy_manager_is_waited_for(make_service: MakeService, play: Play) -> None:
    """Its socket is full: workers rely on nothing before it has been told everything, and the gateway serves."""
    service = make_service()
    service.keeper.pause()
    await service.start({**NO_PINGS, **to_one(play.address)}, ready=False)
    await service.gateway.stderr.containing("ready: ", seconds=2 * DEADLINE_SECONDS)
    tunnels = await play.open_many(service.gateway.address, 10)
    service.keeper.go_on()
    await service.stored(10)
    table = service.table()
    await eventually(lambda: table.cells[H_KEPT] == 1, "workers to rely on it")
    table.close()
    await service.die()
    await service.start()
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)


# --- what does not fit ------------------------------------------------------------------------------------------------


async def test_a_store_that_is_too_small_is_not_used(make_service: MakeService, play: Play) -> None:
    """Workers drain then, as without one."""
    service = make_service(most=3)
    gateway = await service.start(
        {**NO_PINGS, **to_one(play.address, drain={"period": "10ms"}, timeouts={"close": "1s"})}
    )
    gateway.tolerate("the service manager keeps 3 descriptors, but at least 10 are needed")
    await gateway.stderr.containing("FileDescriptorStoreMax")
    assert len([line for line in gateway.stderr.lines if "FileDescriptorStoreMax" in line]) == 1
    await drains_when_killed(service, play)


async def test_a_store_that_is_smaller_than_it_says(make_service: MakeService, play: Play) -> None:
    """What the manager drops, it drops without a word; that shows all the same."""
    service = make_service(most=4, said=64)
    gateway = await service.start(
        {**NO_PINGS, **to_one(play.address, drain={"period": "10ms"}, timeouts={"close": "1s"})}
    )
    gateway.tolerate("the service manager does not keep the gateway's descriptors")
    await gateway.stderr.containing("does not keep the gateway's descriptors")
    await eventually(lambda: not service.keeper.names, "what is of no use to be removed")
    await drains_when_killed(service, play)


async def drains_when_killed(service: Service, play: Play) -> None:
    (tunnel,) = await play.open_many(service.gateway.address, 1)
    client = tunnel.ends[0]
    received = bytearray()
    client.data_received = received.extend  # type: ignore[method-assign]
    await service.die()
    await eventually(lambda: tunnel.gone, "its end")
    assert bytes(received) == frame(CLOSE, close(1012))
    with pytest.raises(ConnectionRefusedError):
        await connect(service.gateway.address)


async def test_without_a_store_nothing_is_sent_to_one(make_service: MakeService, play: Play) -> None:
    service = make_service(most=0)
    await service.start({**NO_PINGS, **to_one(play.address, drain={"period": "10ms"}, timeouts={"close": "1s"})})
    assert service.keeper.names_seen == []
    await drains_when_killed(service, play)
