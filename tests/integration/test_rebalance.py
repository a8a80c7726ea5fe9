"""``gateway rebalance``: tunnels move to the backends that ought to have them, and no other tunnel is touched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from typing import Any

import pytest
import websockets

from tests.conftest import Backends, StartGateway
from tests.support.backends import Echo
from tests.support.gateway import COMMAND, Gateway, route
from tests.support.process import run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]


class Client:
    """Has a tunnel all the time: it connects again when that is closed."""

    def __init__(self, gateway: Gateway, path: str = "/") -> None:
        self._url = gateway.ws() + path.lstrip("/")
        self._task = asyncio.create_task(self._run())
        self.closes: list[tuple[float, int | None]] = []
        """when the tunnel was closed, and the close code"""
        self.connected = asyncio.Event()
        self.socket: websockets.ClientConnection | None = None

    async def _run(self) -> None:
        headers: dict[str, str] = {}
        while True:
            async with websockets.connect(
                self._url, additional_headers=headers, ping_interval=None, compression=None, open_timeout=30
            ) as socket:
                self.socket = socket
                assert socket.response is not None
                if cookie := socket.response.headers.get("Set-Cookie"):
                    headers["Cookie"] = cookie.partition(";")[0]
                self.connected.set()
                await socket.wait_closed()
                self.closes.append((time.monotonic(), socket.close_code))
                self.connected.clear()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class Clients:
    """Many of them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.all: list[Client] = []

    async def add(self, number: int, path: str = "/") -> None:
        for at in range(0, number, 20):
            some = [Client(self._gateway, path.format(at + i)) for i in range(min(20, number - at))]
            self.all += some
            await asyncio.gather(*(client.connected.wait() for client in some))

    async def back(self) -> None:
        """Wait until all have a tunnel."""
        await asyncio.gather(*(client.connected.wait() for client in self.all))

    def closes(self) -> list[tuple[float, int | None]]:
        return sorted(close for client in self.all for close in client.closes)

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(client.close() for client in self.all))


def config_of(backends: list[Echo], **upstream: Any) -> dict[str, Any]:
    listed = [backend.address for backend in backends]
    return {
        "workers": 2,
        "upstreams": {"chat": {"backends": listed, **upstream}},
        "routes": [route("chat", "chat", "/")],
    }


async def rebalance(gateway: Gateway, *options: str) -> tuple[int, str, str]:
    return await run([*COMMAND, "rebalance", "-c", gateway.file, *options], seconds=60)


async def rebalances(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await gateway.get("/api/v1/status"))[1])["rebalances"]
    return found


async def spread(gateway: Gateway, backends: list[Echo]) -> list[int]:
    scrape = await gateway.scrape()
    return [int(scrape.value("gateway_tunnels", backend=backend.address)) for backend in backends]


async def scaled_out(
    start: StartGateway, backends: Backends, clients: int, path: str = "/", **upstream: Any
) -> tuple[Gateway, list[Echo], Clients]:
    """A gateway with clients on two backends, and then two more backends."""
    four = [await backends.echo() for _ in range(4)]
    gateway = await start(config_of(four[:2], **upstream))
    found = Clients(gateway)
    await found.add(clients, path)
    gateway.write(config_of(four, **upstream))
    await gateway.reload()
    return gateway, four, found


def is_even(times: list[float], period: float, parts: int = 4) -> bool:
    """Whether each part of a period has its share of what happened, within 40 %."""
    first = times[0]
    counts = Counter(min(int((each - first) / period * parts), parts - 1) for each in times)
    return all(abs(counts[part] - len(times) / parts) <= 0.4 * len(times) / parts for part in range(parts))


@pytest.mark.parametrize("number", [100, pytest.param(2000, marks=pytest.mark.soak)])
async def test_after_a_scale_out_each_backend_gets_its_share(
    start_gateway: StartGateway, backends: Backends, number: int
) -> None:
    period = 2 if number < 1000 else 20
    gateway, four, clients = await scaled_out(start_gateway, backends, number)
    async with clients:
        assert await spread(gateway, four) == [number // 2, number // 2, 0, 0]

        status, stdout, stderr = await rebalance(gateway, "--dry-run")
        assert (status, stderr) == (0, f"{number // 2} tunnels would be closed")
        assert [line.split()[3:] for line in stdout.splitlines()[1:]] == [
            [str(number // 2), str(number // 4), str(number // 4)],
            [str(number // 2), str(number // 4), str(number // 4)],
            ["0", str(number // 4), "0"],
            ["0", str(number // 4), "0"],
        ]
        assert clients.closes() == []

        status, stdout, stderr = await rebalance(gateway, "--upstream", "chat", "--period", f"{period}s")
        assert (status, stderr) == (0, "")
        assert stdout.startswith(
            f"chat: closing {number // 2} tunnels over {period}s: {number // 4} of {number // 2} to "
        )
        assert f"\nchat: closed {number // 2} tunnels in " in stdout
        await clients.back()
        closes = clients.closes()
        assert {code for _, code in closes} == {1012}
        assert abs(len(closes) - number // 2) <= 0.05 * number // 2
        assert all(len(client.closes) <= 1 for client in clients.all)
        assert is_even([when for when, _ in closes], period)
        assert all(abs(has - number // 4) <= max(1, 0.05 * number // 4) for has in await spread(gateway, four))

        scrape = await gateway.scrape()
        assert scrape.value("gateway_rebalanced_tunnels_total", upstream="chat", result="closed") == len(closes)
        assert scrape.value("gateway_tunnels_closed_total", cause="drain") == len(closes)
        [state] = await rebalances(gateway)
        assert (state["done"], state["error"], state["closed"], state["left"]) == (True, None, len(closes), 0)
        status, stdout, _ = await rebalance(gateway)
        assert (status, stdout) == (0, "chat: every tunnel is where it belongs")
