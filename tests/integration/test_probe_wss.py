"""``gateway probe wss://…``: through this gateway with TLS on both sides."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Backends, StartGateway
from tests.support.certificates import Authority
from tests.support.deadline import SCALE
from tests.support.gateway import NO_PINGS, Config
from tests.support.ports import free_port
from tests.support.tls_servers import V12, V13, server

from .test_probe import CUTOFF_SECONDS, cuts, fin, probe, rst

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300 * SCALE), pytest.mark.either_build]


def config_of(authority: Authority, backends: dict[str, str]) -> Config:
    pair = authority.issue("localhost", "127.0.0.1", file="listener")
    return {
        "listen": [{"address": f"127.0.0.1:{free_port()}", "tls": {"certificates": [pair.section]}}],
        "upstreams": {
            name: {
                "backends": [address],
                "tls": {"ca": str(authority.ca)},
                "on_loss": "off" if name == "fin" else {"close_code": 1012},
            }
            for name, address in backends.items()
        },
        "routes": [{"name": name, "match": {"path": f"/{name}"}, "upstream": name} for name in backends],
        **NO_PINGS,
    }


async def test_what_a_path_of_wss_cuts(start_gateway: StartGateway, backends: Backends, authority: Authority) -> None:
    context = server(authority.issue("127.0.0.1", file="backend"))
    addresses = {}
    for name, end in (("fin", fin), ("close_frame", rst)):
        backend = await backends.scripted(tls=context)
        backend.plays(cuts(end))
        addresses[name] = backend.address
    gateway = await start_gateway(config_of(authority, addresses))
    port = gateway.address.rpartition(":")[2]
    trusted = {"SSL_CERT_FILE": str(authority.ca)}
    found = await asyncio.gather(
        *(probe(f"wss://localhost:{port}/{name}", "--max", "5s", env=trusted) for name in addresses)
    )
    for (status, result, stderr), name in zip(found, addresses, strict=True):
        assert status == 0, stderr
        cutoff = result["cutoff_seconds"]
        assert cutoff["low"] <= CUTOFF_SECONDS <= cutoff["high"] + 0.2
        assert (result["ended_by"], result["close_code"]) == (name, 1012 if name == "close_frame" else None), result


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
async def test_a_path_that_cuts_nothing(
    start_gateway: StartGateway, backends: Backends, authority: Authority, version: object
) -> None:
    echo = await backends.echo(tls=server(authority.issue("127.0.0.1", file="backend"), version))  # type: ignore[arg-type]  # a parameter
    gateway = await start_gateway(config_of(authority, {"chat": echo.address}))
    port = gateway.address.rpartition(":")[2]
    url = f"wss://localhost:{port}/chat"
    (status, found, stderr), untrusted = await asyncio.gather(
        probe(url, "--max", "1s", env={"SSL_CERT_FILE": str(authority.ca)}), probe(url, "--max", "1s")
    )
    assert status == 0, stderr
    assert (found["cutoff_seconds"], found["ended_by"], found["ping_after_seconds"]) == (None, None, 0.8)
    assert untrusted[0] == 1
    assert "certificate is not trusted" in untrusted[2]
    record = await gateway.logged(event="tunnel_end", path="/chat")
    assert (record["initiator"], record["cause"], record["client_close_code"]) == ("client", "close_frame", 1000)
