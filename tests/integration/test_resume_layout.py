"""The supervisor dies, and tables have several layouts: in or after an upgrade, or as the next program has another.

Programs are made as in ``layouts.py``, and the service manager is that of ``services.py``.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from gateway.tunnels.table import description
from gateway.tunnels.table.layout import VERSION
from tests.support.deadline import eventually
from tests.support.files import rewrite
from tests.support.frames import CLOSE, close, frame
from tests.support.gateway import NO_PINGS, to_one
from tests.support.numbered import Play, Tunnel, all_complete, get_busy
from tests.support.process import gone

from .layouts import edit, layouts_of, relayout
from .services import Counters, MakeService, Service
from .upgrades import UPGRADE_SECONDS, fails, of, upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300), pytest.mark.either_build]


def layouts_kept(service: Service) -> list[int]:
    """Versions of the layouts of all tables that the manager keeps."""
    return sorted(description.read(fd).version for fd in service.keeper.of_kind("table"))


async def begin(service: Service, play: Play, count: int) -> list[Tunnel]:
    """A gateway with tunnels that have said something."""
    gateway = await service.start({"workers": 2, **NO_PINGS, **to_one(play.address)})
    tunnels = await play.open_many(gateway.address, count)
    await service.stored(count)
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)
    return tunnels


async def all_go_on(service: Service, tunnels: list[Tunnel]) -> None:
    assert all(tunnel.lives for tunnel in tunnels)
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)
    scrape = await service.gateway.tunnels(len(tunnels))
    assert scrape.value("gateway_tunnels_closed_total") == 0
    assert scrape.value("gateway_handshakes_total", result="upgraded") == len(tunnels)
    assert scrape.value("gateway_relayed_frames_total") == sum(end.sent for each in tunnels for end in each.ends)


async def test_after_an_upgrade_to_another_layout(make_service: MakeService, play: Play, program: Path) -> None:
    """Once it has settled, the new table is the one that is kept."""
    service = make_service(env=of(program))
    tunnels = await begin(service, play, 200)
    counters = Counters()
    await counters.look(service.gateway)
    relayout(program)
    await upgrade(service.gateway)
    await eventually(lambda: layouts_of(service.gateway) == [VERSION + 1], "the old table to be closed")
    await eventually(lambda: layouts_kept(service) == [VERSION + 1], "the old table to be removed")
    tunnels += await play.open_many(service.gateway.address, 20)
    await service.stored(220)
    busy = tunnels[:20]
    get_busy(busy)
    await service.die()
    for tunnel in busy:
        tunnel.rest()
    await service.start()
    await eventually(lambda: all(tunnel.complete or tunnel.gone for tunnel in busy), "traffic to arrive, or ends")
    assert sum(tunnel.gone for tunnel in busy) < len(busy), "none was clean"
    tunnels = [tunnel for tunnel in tunnels if not tunnel.gone]
    for tunnel in tunnels:
        tunnel.say()
    await all_complete(tunnels)
    await counters.look(service.gateway)
    await service.gateway.tunnels(len(tunnels))
    assert layouts_kept(service) == [VERSION + 1]


@pytest.mark.parametrize("when", ["switching to it now", "gateway 99.2 .* configuration", "upgraded from"])
async def test_a_kill_in_such_an_upgrade(make_service: MakeService, play: Play, program: Path, when: str) -> None:
    """Tunnels are in the old table, in the new one, or in both."""
    service = make_service(env=of(program))
    tunnels = await begin(service, play, 300)
    relayout(program)
    gateway = service.gateway
    start = len(gateway.stderr.lines)
    gateway.process.signal(signal.SIGUSR2)
    await gateway.stderr.first(
        lambda line: line if re.search(when, line) else None, "the upgrade", start, seconds=UPGRADE_SECONDS
    )
    await service.die()
    assert all(tunnel.lives for tunnel in tunnels)
    await service.start()
    await all_go_on(service, tunnels)
    assert layouts_kept(service) == [VERSION + 1]
    assert layouts_of(service.gateway) == [VERSION + 1]
    if when == "upgraded from":
        await upgrade(service.gateway)
        await all_go_on(service, tunnels)


@pytest.mark.parametrize("before", [r"^ *new\.channel\.send\(TakeOver", r"^ *old\.channel\.send\(Forget"])
async def test_a_kill_in_the_middle_of_a_round(
    make_service: MakeService, play: Play, program: Path, before: str
) -> None:
    """One round is through. Of the next, the old worker has released the tunnels, or the new one serves them, too."""
    service = make_service(env=of(program))
    tunnels = await begin(service, play, 300)
    relayout(program)
    file = program / "processes" / "upgrade.py"
    good = file.read_text()
    kill = "globals().update(ROUND=globals().get('ROUND', 0) + 1) or ROUND == 2 and os.kill(os.getpid(), 9); "
    edit(file, (before, lambda found: found[0].replace(found[0].strip(), kill + found[0].strip())))
    service.gateway.process.signal(signal.SIGUSR2)
    await gone(service.gateway.process.pid, UPGRADE_SECONDS)
    await service.gateway.exits(-signal.SIGKILL)
    assert layouts_kept(service) == [VERSION, VERSION + 1]
    rewrite(file, good)
    await service.start()
    await all_go_on(service, tunnels)
    assert layouts_kept(service) == [VERSION + 1]
    await upgrade(service.gateway)
    await all_go_on(service, tunnels)


async def test_old_workers_that_stay(make_service: MakeService, play: Play, program: Path) -> None:
    """The new ones do not start; both tables are kept as long as that lasts."""
    service = make_service(env=of(program))
    tunnels = await begin(service, play, 100)
    relayout(program)
    worker = program / "processes" / "worker.py"
    good = worker.read_text()
    rewrite(worker, good.replace("def main(slot", "def main(*a):\n    sys.exit(3)\n\n\ndef unused(slot"))
    await fails(service.gateway, r"worker 2 \(pid \d+\) of the new program did not start")
    rewrite(worker, good)
    assert layouts_kept(service) == [VERSION, VERSION + 1]
    tunnels += await play.open_many(service.gateway.address, 10)
    await service.stored(110)
    await service.die()
    await service.start()
    await all_go_on(service, tunnels)
    assert layouts_kept(service) == [VERSION + 1]


async def test_a_program_of_another_layout_is_started(make_service: MakeService, play: Play, program: Path) -> None:
    """And once more, with the layout that there was."""
    service = make_service(env=of(program))
    tunnels = await begin(service, play, 200)
    counters = Counters()
    await counters.look(service.gateway)
    await service.die()
    restore = relayout(program)
    await service.start()
    await all_go_on(service, tunnels)
    await counters.look(service.gateway)
    assert layouts_kept(service) == [VERSION + 1]
    await service.die()
    restore()
    await service.start()
    await all_go_on(service, tunnels)
    assert layouts_kept(service) == [VERSION]
    scrape = await service.gateway.scrape()
    assert scrape.value("gateway_tunnels_adopted_total") == 2 * len(tunnels)


async def test_a_table_that_cannot_be_converted(make_service: MakeService, play: Play, program: Path) -> None:
    """Its tunnels are ended, and told so, though the program knows nothing of its layout."""
    service = make_service(env=of(program))
    tunnels = await begin(service, play, 10)
    received: list[bytearray] = []
    for tunnel in tunnels:
        received.append(bytearray())
        tunnel.ends[0].data_received = received[-1].extend  # type: ignore[method-assign]
    await service.die()
    relayout(program)
    edit(program / "tunnels/table/fields.py", ('"W_WEATHER": 0', '"W_WEATHER": REQUIRED'))
    gateway = await service.start()
    gateway.tolerate(
        "lost 10 tunnels of the previous gateway .20 sides were sent a Close frame.: the table of"
        f" layout {VERSION} has no W_WEATHER, which {VERSION + 1} needs"
    )
    await eventually(lambda: all(tunnel.gone for tunnel in tunnels), "all ends")
    assert set(map(bytes, received)) == {frame(CLOSE, close(1012))}
    assert layouts_kept(service) == [VERSION + 1]
    fresh = await play.open_many(gateway.address, 10)
    await service.stored(10)
    await service.die()
    await service.start()
    for tunnel in fresh:
        tunnel.say()
    await all_complete(fresh)
