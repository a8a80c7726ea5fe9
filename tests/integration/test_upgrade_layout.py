"""An upgrade to a program whose table has another layout, and back: every tunnel and every count goes on.

The other program is a copy of this one with another ``layout.py``, made by ``layouts.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from gateway.tunnels.table.layout import VERSION
from tests.conftest import Backends, Open, StartGateway
from tests.support.deadline import LONGEST_PAUSE_SECONDS, eventually, quiet_for
from tests.support.files import rewrite
from tests.support.frames import BINARY, PING, PONG, TEXT, frame, from_client
from tests.support.gateway import Gateway, route
from tests.support.memory import open_descriptors
from tests.support.numbered import Play, Tunnel
from tests.support.process import children, gone
from tests.support.raw import Connection, handshake
from tests.support.scrape import Scrape

from .layouts import layouts_of, relayout
from .upgrades import fails, of, serves_as_before, status_of_upgrade, upgrade

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300), pytest.mark.either_build]

IDLE, BUSY = 150, 15
LONG_PATH = "/pinged" + "/room" * 48  # more than fits into a row


class Counters:
    """Scrapes all the time, and sees no counter go down. One that the other program has not may be missing there."""

    def __init__(self, gateway: Gateway) -> None:
        self.scrapes = 0
        self.latest: dict[object, float] = {}
        self._gateway = gateway
        self._one_at_a_time = asyncio.Lock()
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError):  # the supervisor executes the other program
                await self.look()
            await quiet_for(LONGEST_PAUSE_SECONDS)  # what is looked at needs the CPU, too

    async def look(self) -> Scrape:
        """Scrape once more, when the scrape before has ended: two at once may end in either order.

        :raises AssertionError: a counter is less than it was
        """
        async with self._one_at_a_time:
            scrape = await self._gateway.scrape()
            for series, value in scrape.counters().items():
                assert value >= self.latest.get(series, 0), series
                self.latest[series] = value
            self.scrapes += 1
            return scrape

    async def __aenter__(self) -> Counters:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """:raises AssertionError: as above, or it has seen next to nothing"""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        assert self.scrapes > 5 or kind is not None


def two_routes(play: Play, echo: str) -> dict[str, object]:
    """One to a play, whose ends answer no Pings, and one whose clients get some soon."""
    quiet = {"keepalive": {"client": "off", "backend": "off"}}
    pinged = {"keepalive": {"client": {"ping_after": "1s", "pong_timeout": "60s"}, "backend": "off"}}
    return {
        "upstreams": {"play": {"backends": [play.address]}, "echo": {"backends": [echo]}},
        "routes": [route("pinged", "echo", "/pinged", **pinged), route("quiet", "play", "/", **quiet)],
    }


async def pinged(gateway: Gateway, open_connection: Open, count: int) -> list[tuple[Connection, bytes]]:
    """Tunnels whose clients have been pinged, and have not answered; what was in the Ping."""
    clients = [await open_connection(gateway) for _ in range(count)]
    for client in clients:
        await client.send(handshake(LONG_PATH))
        assert (await client.head()).status == 101
    found = []
    for client in clients:
        ping = await client.read(2)
        assert ping[0] == 0x80 | PING
        found.append((client, await client.read(ping[1])))
    return found


async def answer(gateway: Gateway, clients: list[tuple[Connection, bytes]]) -> None:
    """Answer the Pings: the gateway takes the Pongs, and the backend sees but the message behind."""
    before = await gateway.scrape()
    for n, (client, body) in enumerate(clients):
        await client.send(from_client(PONG, body) + from_client(TEXT, b"%d" % n))
    for n, (client, _) in enumerate(clients):
        text = frame(TEXT, b"%d" % n)
        assert await client.read(len(text)) == text
    await gateway.until(
        lambda now: (
            now.value("gateway_keepalive_pongs_received_total", side="client")
            >= before.value("gateway_keepalive_pongs_received_total", side="client") + len(clients)
        ),
        "the Pongs to be counted",
    )


def say_in_pieces(tunnels: list[Tunnel], at: int) -> list[tuple[bytes, bytes]]:
    """Have clients send the beginning of a message, cut in its header or behind it; this, and the rest of each."""
    pieces = []
    for n, tunnel in enumerate(tunnels):
        message = from_client(BINARY, b"%d" % n * 200)
        cut = 1 + (at + n) % 12
        tunnel.ends[0].transport.write(message[:cut])
        pieces.append((message[:cut], message[cut:]))
    return pieces


async def test_there_and_back(
    start_gateway: StartGateway, play: Play, program: Path, backends: Backends, open_connection: Open
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway({"workers": 2, **two_routes(play, echo.address)}, env=of(program))
    pid = gateway.process.pid
    idle = await play.open_many(gateway.address, IDLE)
    busy = await play.open_many(gateway.address, BUSY)
    cut = await play.open_many(gateway.address, 20)
    received: dict[Tunnel, bytearray] = {tunnel: bytearray() for tunnel in cut}
    for tunnel in cut:
        tunnel.ends[1].data_received = received[tunnel].extend  # type: ignore[method-assign]
    for tunnel in idle:
        tunnel.say()
    for tunnel in busy:
        tunnel.be_busy(0.02)
    async with Counters(gateway) as counters:
        restore = relayout(program)
        expected = dict.fromkeys(cut, b"")
        open_tunnels = IDLE + BUSY + len(cut)
        clients: list[tuple[Connection, bytes]] = []
        descriptors = []
        for round_, (version, layout) in enumerate((("99.2", VERSION + 1), ("99.1", VERSION))):
            if round_:
                restore()
            clients = await pinged(gateway, open_connection, 10)
            open_tunnels += 10
            pieces = say_in_pieces(cut, round_)
            await eventually(
                lambda: all(len(received[each]) > len(expected[each]) for each in cut), "pieces of headers"
            )
            marks = {tunnel: tunnel.progress for tunnel in busy}
            await eventually(lambda marks=marks: all(t.progress >= mark + 3 for t, mark in marks.items()), "traffic")
            before = await gateway.scrape()
            await upgrade(gateway)
            assert (await gateway.api("status"))["version"] == version
            await eventually(lambda: len(children(pid)) == 2, "the old workers to be waited for")
            await eventually(lambda layout=layout: layouts_of(gateway) == [layout], "the other table to be closed")
            for tunnel, (begun, rest) in zip(cut, pieces, strict=True):
                tunnel.ends[0].transport.write(rest)
                expected[tunnel] += begun + rest
            await eventually(lambda: all(received[each] == expected[each] for each in cut), "the rest of the messages")
            await answer(gateway, clients)
            await gateway.tunnels(open_tunnels)
            scrape = await counters.look()
            adopted = scrape.value("gateway_tunnels_adopted_total") - before.value("gateway_tunnels_adopted_total")
            assert adopted == open_tunnels
            assert scrape.value("gateway_relayed_frames_total", route="quiet", opcode="binary") >= len(cut) * (
                round_ + 1
            )
            assert scrape.value("gateway_protocol_violations_total") == 0
            assert scrape.value("gateway_backend_up") == 2
            found = {tunnel["path"] for tunnel in (await gateway.api("tunnels"))["tunnels"]}
            assert len(found) == IDLE + BUSY + len(cut) + 1
            assert LONG_PATH in found
            descriptors.append(open_descriptors(pid) - 2 * open_tunnels)
    for tunnel in busy:
        tunnel.rest()
    for tunnel in idle:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in (*idle, *busy)), "everything to arrive")
    for tunnel in (*idle, *busy, *cut):
        assert tunnel.lives
        if tunnel not in expected:
            tunnel.check()
    scrape = await gateway.scrape()
    frames = sum(end.sent for tunnel in (*idle, *busy) for end in tunnel.ends) + 2 * len(cut)
    assert scrape.value("gateway_relayed_frames_total", route="quiet") == frames
    assert scrape.value("gateway_handshakes_total", result="upgraded") == open_tunnels
    assert scrape.value("gateway_worker_restarts_total") == 0
    assert abs(descriptors[1] - descriptors[0]) <= 4, descriptors
    assert not gateway.log_records(event="tunnel_end")
    for tunnel in (*idle, *busy, *cut):
        tunnel.ends[0].transport.close()
    for client in {client for client, _ in clients}:
        await client.close()
    await gateway.until(lambda now: now.value("gateway_tunnels", route="quiet") == 0, "the ends")
    await eventually(lambda: open_descriptors(pid) < 100, "the supervisor to let go of all connections")


async def test_workers_that_do_not_start(start_gateway: StartGateway, play: Play, program: Path) -> None:
    """The old ones go on with their table, everything can be seen, and the next upgrade can be to either layout."""
    quiet = two_routes(play, play.address)
    gateway = await start_gateway({"workers": 2, **quiet}, env=of(program))
    tunnels = await play.open_many(gateway.address, 50)
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages")
    async with Counters(gateway):
        pids = children(gateway.process.pid)
        restore = relayout(program)
        worker = program / "processes" / "worker.py"
        good = worker.read_text()
        rewrite(worker, good.replace("def main(slot", "def main(*a):\n    sys.exit(3)\n\n\ndef unused(slot"))
        for _ in range(2):
            await fails(gateway, r"worker 2 \(pid \d+\) of the new program did not start")
            assert layouts_of(gateway) == [VERSION, VERSION + 1]
            await serves_as_before(gateway, play, tunnels, pids)
            frames = sum(end.sent for tunnel in tunnels for end in tunnel.ends)
            await gateway.until(
                lambda now, frames=frames: now.value("gateway_relayed_frames_total") >= frames,
                "all frames to be counted",
            )
            assert len((await gateway.api("status"))["workers"]) == 2
        opened = len(tunnels) + 2  # one each time, to see whether it serves
        await gateway.tunnels(opened)
        restore()
        rewrite(worker, good)
        await upgrade(gateway)
        await eventually(lambda: layouts_of(gateway) == [VERSION], "the other tables to be closed")
        scrape = await gateway.tunnels(opened)
        assert scrape.value("gateway_tunnels_adopted_total") == opened
    assert all(tunnel.lives for tunnel in tunnels)


async def test_an_old_worker_that_dies_is_replaced_by_one_of_the_new_layout(
    start_gateway: StartGateway, play: Play, program: Path
) -> None:
    """The upgrade has failed, and the program that is there by then starts the successor."""
    gateway = await start_gateway(two_routes(play, play.address), env=of(program))
    tunnels = await play.open_many(gateway.address, 50)
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages")
    await eventually(lambda: open_descriptors(gateway.process.pid) > 100, "all of them to be in store")
    relayout(program)
    worker = program / "processes" / "worker.py"
    good = worker.read_text()
    rewrite(worker, good.replace("def main(slot", "def main(*a):\n    sys.exit(3)\n\n\ndef unused(slot"))
    await fails(gateway, r"worker 1 \(pid \d+\) of the new program did not start")
    rewrite(worker, good)
    before = await gateway.tunnels(50)
    (old,) = children(gateway.process.pid)
    gateway.tolerate("worker .* was killed by SIGKILL")
    os.kill(int(old), signal.SIGKILL)
    await gone(int(old))
    scrape = await gateway.until(lambda now: now.value("gateway_tunnels_adopted_total") == 50, "a successor")
    assert layouts_of(gateway) == [VERSION + 1]
    for series, value in before.counters().items():
        assert scrape.counters().get(series, value) >= value, series
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages")
    assert all(tunnel.lives for tunnel in tunnels)
    since = time.time()
    gateway.process.signal(signal.SIGUSR2)
    assert (await status_of_upgrade(gateway, since))["ok"]


@pytest.mark.parametrize("who", ["os.getpid()", "OLD"])
async def test_a_worker_that_dies_while_tunnels_move(
    start_gateway: StartGateway, play: Play, program: Path, who: str
) -> None:
    """The new one, and the old one goes on with its table; or the old one, and the new ones have all its tunnels."""
    gateway = await start_gateway(two_routes(play, play.address), env=of(program))
    tunnels = await play.open_many(gateway.address, 220)
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages")
    await eventually(lambda: open_descriptors(gateway.process.pid) > 440, "all of them to be in store")
    before = await gateway.tunnels(220)
    pids = children(gateway.process.pid)
    relayout(program)
    worker = program / "processes" / "worker.py"
    good = worker.read_text()
    at = "            kept = self._deposits.inherited()\n            _, left"
    assert at in good
    pid = who.replace("OLD", pids[0])  # whose successor's tunnels are handed over, too
    kill = f"            os.path.exists(f'/proc/{{{pid}}}') and os.kill({pid}, 9)\n            time.sleep(0.3)\n"
    rewrite(worker, good.replace(at, kill + at))
    if who == "OLD":
        gateway.tolerate("worker .* was killed by SIGKILL|upgrade failed|cannot be handed over now")
        since = time.time()
        gateway.process.signal(signal.SIGUSR2)
        await status_of_upgrade(gateway, since)
        await gone(int(pids[0]))
        await eventually(lambda: layouts_of(gateway) == [VERSION + 1], "the other table to be closed")
    else:
        await fails(gateway, "the new worker .* died")
        assert layouts_of(gateway) == [VERSION, VERSION + 1]
        await serves_as_before(gateway, play, tunnels, pids)
        rewrite(worker, good)
        await upgrade(gateway)
        await eventually(lambda: layouts_of(gateway) == [VERSION + 1], "the other table to be closed")
    for tunnel in tunnels:
        tunnel.say()
    await eventually(lambda: all(tunnel.complete for tunnel in tunnels), "the messages")
    await eventually(lambda: len(children(gateway.process.pid)) == 1, "the old one's successor to finish")
    assert all(tunnel.lives for tunnel in tunnels)
    scrape = await gateway.tunnels(220 if who == "OLD" else 221)
    for series, value in before.counters().items():
        assert series not in scrape.counters() or scrape.counters()[series] >= value, series
