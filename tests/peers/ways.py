"""Gateways with something on the way that cuts silent connections: nginx, HAProxy, a NAT; on either side.

When nginx or HAProxy cut a tunnel, they close both of its connections. A NAT forgets a connection and tells nobody: it
drops what comes later, or answers it with RST.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from tests.conftest import StartGateway
from tests.peers.endpoints import Endpoint, Ends
from tests.peers.proxies import UPGRADE, start_haproxy, start_nginx
from tests.peers.servers import Servers
from tests.support.gateway import Config, Gateway, Record, route
from tests.support.netns import Namespace, SilentNat
from tests.support.ports import free_port

SIDES = ("client", "backend")
CONNECTIONS = 4096

Dial = Callable[[], Awaitable[socket.socket]]
Keepalive = Config | str


class Place(NamedTuple):
    """Where something is on the way."""

    what: str
    side: str
    """of the gateway, or ``both`` where there is nothing on either"""
    dial: Dial
    """connects a client to whatever is nearest"""
    upstream: str
    """what the gateway has for a backend"""
    ends: Ends


class Way(NamedTuple):
    """A route of a gateway: a place, and how tunnels are kept alive there."""

    gateway: Gateway
    place: Place
    case: str

    @property
    def route(self) -> str:
        return route_name(self.place.what, self.place.side, self.case)

    async def open(self) -> tuple[Endpoint, Endpoint]:
        """A new tunnel: its ends at client and backend."""
        return await self.place.ends.open(await self.place.dial(), f"/{self.route}/{next(_numbers)}")

    async def open_in_turn(self) -> tuple[Endpoint, Endpoint]:
        """The same, one of many at once."""
        async with _turn:
            return await self.open()

    async def ended(self, count: int, seconds: float) -> list[Record]:
        """What the access log says of the first tunnels that ended, once they are that many."""
        found: list[Record] = []

        def collect(line: str) -> list[Record] | None:
            record = json.loads(line) if self.route in line else {}
            if record.get("event") == "tunnel_end" and record["route"] == self.route:
                found.append(record)
            return found if len(found) == count else None

        return await self.gateway.stdout.first(collect, f"{count} ends on {self.route}", seconds=seconds)


_numbers = itertools.count()
_turn = asyncio.Semaphore(20)


def route_name(what: str, side: str, case: str) -> str:
    return f"{what}-{side}-{case}"


async def start_ways(
    start: StartGateway,
    address: Sequence[str],
    places: Sequence[tuple[Place, Sequence[str]]],
    keepalive: dict[str, Keepalive],
    namespace: Namespace | None = None,
) -> list[Way]:
    """Start a gateway.

    :param address: that it listens on
    :param places: and the cases to be set up for each
    :param keepalive: by case: of the side where something is on the way; the other side is sent no Pings
    """
    routes = []
    for place, cases in places:
        for case in cases:
            sides = {side: keepalive[case] if place.side in (side, "both") else "off" for side in SIDES}
            # Where nobody asks, the kernel tells of what is not acknowledged, 2 s after a write that stalls.
            timeouts = {"write_stall": "2s"} if keepalive[case] == "off" else {}
            name = route_name(place.what, place.side, case)
            routes.append(route(name, f"{place.what}-{place.side}", keepalive=sides, timeouts=timeouts))
    gateway = await start(
        {
            "workers": 2,
            "listen": [{"address": each} for each in address],
            "trusted_proxies": ["127.0.0.1"],
            "upstreams": {f"{place.what}-{place.side}": {"backends": [place.upstream]} for place, _ in places},
            "routes": routes,
        },
        namespace=namespace,
    )
    return [Way(gateway, place, case) for place, cases in places for case in cases]


async def places_at_proxies(
    stack: AsyncExitStack, servers: Servers, directory: Path, gateway: str, cutoff_seconds: int
) -> list[Place]:
    """nginx and HAProxy, in front of a gateway and behind it, and no proxy at all. :param gateway: its address"""
    listening = socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS)
    host, port = listening.getsockname()
    backend = f"{host}:{port}"
    ends = await Ends.start(listening)
    stack.push_async_callback(ends.close)

    def targets(what: str) -> dict[str, str]:
        return {
            f"/{route_name(what, side, '')}": target for side, target in zip(SIDES, (gateway, backend), strict=True)
        }

    locations = [
        f"location {prefix} {{ proxy_pass http://{target}; {UPGRADE} }}" for prefix, target in targets("nginx").items()
    ]
    nginx = await start_nginx(
        servers, directory, f"proxy_read_timeout {cutoff_seconds}s; {' '.join(locations)}", CONNECTIONS
    )
    haproxy = await start_haproxy(servers, directory, targets("haproxy"), f"{cutoff_seconds}s", CONNECTIONS)
    places = [Place("nothing", "both", dials(gateway), backend, ends)]
    for what, address in (("nginx", nginx), ("haproxy", haproxy)):
        places.append(Place(what, "client", dials(address), backend, ends))
        places.append(Place(what, "backend", dials(gateway), address, ends))
    return places


class NatPlaces(NamedTuple):
    """Of two gateways: one in ``nat.server``, whose clients are beyond the NAT, one in ``nat.client`` with backends
    beyond it."""

    inner: list[str]
    """addresses for the former to listen on"""
    outer: str
    client: list[Place]
    backend: list[Place]


async def places_at_a_nat(stack: AsyncExitStack, nat: SilentNat) -> NatPlaces:
    """A NAT that keeps silent, and one that answers with RST."""
    outer = free_address()
    places = NatPlaces([], outer, [], [])
    for what in ("nat", "nat_with_rst"):
        listening = nat.server.listen()
        ends = await Ends.start(listening)
        stack.push_async_callback(ends.close)
        ports = free_port(), listening.getsockname()[1]
        inner, backend = (f"{nat.server.address}:{port}" for port in ports)
        if what == "nat_with_rst":
            for port in ports:
                nat.refuse(port)
        places.inner.append(inner)
        places.client.append(Place(what, "client", dials(inner, nat.client), backend, ends))
        places.backend.append(Place(what, "backend", dials(outer, nat.client), backend, ends))
    return places


def dials(address: str, namespace: Namespace | None = None) -> Dial:
    """How to connect to an address."""
    host, _, port = address.rpartition(":")

    async def dial() -> socket.socket:
        if namespace is not None:
            return await namespace.connect(host, int(port))
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        return sock

    return dial


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"
