"""A browser shows the status page of a gateway, with the rules of its routes and upstreams."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import StartGateway
from tests.peers.test_chromium import browser
from tests.support.deadline import SCALE, eventually, within
from tests.support.gateway import route
from tests.support.ports import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


async def test_rules_are_shown(start_gateway: StartGateway, tmp_path: Path) -> None:
    """What there is of them, and why backends are not found; nothing is left out because of an error in a script."""
    backend = f"127.0.0.1:{free_port()}"
    gateway = await start_gateway(
        {
            "upstreams": {
                "chat": {
                    "backends": [backend],
                    "balance": "consistent_hash",
                    "hash_on": "header:X-Room",
                    "health_check": "tcp",
                    "discover": {"file": "missing.json"},
                }
            },
            "routes": [
                route("limited", "chat", origins=["https://a.example"], limits={"tunnels_per_client": 3}),
                {"name": "gone", "respond": {"status": 410}},
            ],
        }
    )

    async def failed() -> str | None:
        error: str | None = (await gateway.api("status"))["upstreams"][0]["discovery"]["error"]
        return error

    await eventually(failed, "the file to be looked for")
    command = (*browser(tmp_path), "--virtual-time-budget=5000", "--dump-dom", f"http://{gateway.admin}/")
    chromium = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        page = (await within(chromium.communicate(), "the page", 60 * SCALE))[0].decode()
    finally:
        if chromium.returncode is None:
            chromium.kill()
            await chromium.wait()
    assert "origins https://a.example; 3 tunnels per client" in page
    assert "answers 410" in page
    assert "to chat" in page
    assert "consistent hash on header:X-Room; checked by tcp every 5 s; found by file " in page
    assert "missing.json" in page
    assert "Backends cannot be found: " in page
    assert "cannot be read: No such file or directory" in page
    assert backend in page
