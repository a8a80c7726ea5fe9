"""A supervisor hangs and dies in an upgrade, between two workers that agree on who serves: ends are counted once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.deadline import eventually
from tests.support.files import rewrite
from tests.support.gateway import NO_PINGS, to_one
from tests.support.numbered import Play, all_complete
from tests.support.process import children, gone

from .services import MakeService
from .upgrades import UPGRADE_SECONDS, of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

TUNNELS, ENDED = 30, 10


async def test_tunnels_end_while_the_supervisor_hangs(make_service: MakeService, play: Play, program: Path) -> None:
    """The new worker has taken over and serves; the old one has not been told, and never will be."""
    service = make_service(env=of(program))
    gateway = await service.start({"workers": 1, **NO_PINGS, **to_one(play.address)})
    opened = await play.open_many(gateway.address, TUNNELS)
    await service.stored(TUNNELS)
    upgrade_py = program / "processes" / "upgrade.py"
    at = "    from_store.restore(to_store.give_up(taken.left))\n"
    good = upgrade_py.read_text()
    assert good.count(at) == 1
    hang = f'    log.info("hangs")\n    while not os.path.exists("{program}/none"):\n        time.sleep(0.01)\n'
    rewrite(upgrade_py, good.replace(at, hang + at))
    gateway.process.signal(signal.SIGUSR2)
    await gateway.stderr.containing("hangs", seconds=UPGRADE_SECONDS)
    rewrite(upgrade_py, good)
    for tunnel in opened[:ENDED]:
        for end in tunnel.ends:
            end.transport.close()
    await eventually(lambda: len(gateway.log_records(event="tunnel_end")) == ENDED, "lines of the ends")
    workers = children(gateway.process.pid)
    assert len(workers) == 2
    await service.kill()
    for pid in workers:
        await gone(int(pid))
    await gateway.exits(-signal.SIGKILL)
    lines = [record["id"] for record in gateway.log_records(event="tunnel_end")]

    gateway = await service.start()
    for tunnel in opened[ENDED:]:
        tunnel.say()
    await all_complete(opened[ENDED:])
    scrape = await gateway.tunnels(TUNNELS - ENDED)
    assert scrape.value("gateway_tunnels_closed_total") == ENDED
    for tunnel in opened[ENDED:]:
        for end in tunnel.ends:
            end.transport.close()
    await gateway.counts(scrape, "gateway_tunnels_closed_total", TUNNELS - ENDED)
    rest = TUNNELS - ENDED
    await eventually(lambda: len(gateway.log_records(event="tunnel_end")) >= rest, "lines of the other ends")
    lines += [record["id"] for record in gateway.log_records(event="tunnel_end")]
    assert len(lines) == len(set(lines)) == TUNNELS
