"""Prometheus scrapes the gateway, and promtool finds nothing to say about its metrics."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.peers.servers import Servers, program
from tests.support.deadline import within
from tests.support.gateway import to_one
from tests.support.ports import free_port
from tests.support.process import run
from tests.support.raw import handshake

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_query_returns_what_is_open(
    start_gateway: StartGateway, backends: Backends, servers: Servers, open_connection: Open, tmp_path: Path
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address, workers=2))
    for _ in range(7):
        client = await open_connection(gateway)
        await client.send(handshake("/"))
        assert (await client.head()).status == 101
    config = tmp_path / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms"},
                "scrape_configs": [{"job_name": "gateway", "static_configs": [{"targets": [gateway.admin]}]}],
            }
        )
    )
    address = f"127.0.0.1:{free_port()}"
    await servers.start(
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={address}",
        accepts=address,
    )

    async def query(expression: str) -> list[dict[str, str]]:
        """Until it returns something: the first scrape takes its time."""
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://{address}/api/v1/query?query={quote(expression)}") as answer:
                    result = (await answer.json())["data"]["result"] if answer.status == 200 else []
                if result:
                    return [{**found["metric"], "value": found["value"][1]} for found in result]
                await asyncio.sleep(0.1)

    (tunnels,) = await within(query("gateway_tunnels"), "a scrape")
    assert (tunnels["route"], tunnels["backend"], tunnels["value"]) == ("all", echo.address, "7")
    (up,) = await within(query("up"), "a scrape")
    assert up["value"] == "1"
    (idle,) = await within(query('gateway_tunnel_idle_seconds_bucket{le="+Inf"}'), "a scrape")
    assert idle["value"] == "7"
    (upgraded,) = await within(query('sum(gateway_handshakes_total{result="upgraded"})'), "a scrape")
    assert upgraded["value"] == "7"
    (build,) = await within(query("gateway_build_info"), "a scrape")
    assert build["relay"] in ("compiled", "pure")


async def test_promtool_has_nothing_to_say(
    start_gateway: StartGateway, backends: Backends, open_connection: Open, tmp_path: Path
) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    client = await open_connection(gateway)
    await client.send(handshake("/"))
    assert (await client.head()).status == 101
    file = tmp_path / "metrics.txt"
    file.write_text((await gateway.scrape()).text)
    status, stdout, stderr = await run(["/bin/sh", "-c", f"{program('promtool')} check metrics < {file}"])
    assert (status, stdout + stderr) == (0, "")
