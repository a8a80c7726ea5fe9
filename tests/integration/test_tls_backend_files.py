"""Options and files of TLS to backends that change: at a reload, and on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.certificates import Authority
from tests.support.deadline import DEADLINE_SECONDS, eventually
from tests.support.raw import Connection
from tests.support.tls_servers import server

from .test_tls_backend_connections import ask, serves, to_tls

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"), "Another Authority")


@pytest.fixture(scope="module")
def good(authority: Authority) -> Any:
    return authority.issue("localhost", "127.0.0.1", "::1", file="good")


async def test_reloads(
    start_gateway: StartGateway,
    backends: Backends,
    authority: Authority,
    foreign: Authority,
    good: Any,
    open_connection: Open,
    tmp_path: Path,
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.ca.read_bytes())
    connections: list[Connection] = []
    backend = await backends.scripted(tls=server(good))

    async def script(connection: Connection) -> None:
        connections.append(connection)
        await serves(backend, connection)

    backend.plays(script)
    config = to_tls(authority, backend.address)
    config["upstreams"]["one"]["tls"]["ca"] = str(ca)
    gateway = await start_gateway(config)
    client = await open_connection(gateway)
    assert await ask(client) == (200, "ok")
    await gateway.reload()  # nothing has changed: the pooled connection is used
    assert await ask(client) == (200, "ok")
    assert len(connections) == 1
    ca.write_bytes(foreign.ca.read_bytes())  # another CA in the same file: the pooled connection is not
    await gateway.reload()
    status, text = await ask(client)
    assert (status, "issued by nobody who is trusted" in text) == (502, True)
    ca.write_text("no certificate\n")
    gateway.tolerate("reload failed")
    await gateway.reload()
    await gateway.stderr.containing(f"{ca} holds no certificate")
    config["upstreams"]["one"]["tls"] = {"verify": False}
    gateway.write(config)
    await gateway.reload()
    assert await ask(client) == (200, "ok")
    del config["upstreams"]["one"]["tls"]  # plain again: such a backend does not understand
    gateway.write(config)
    await gateway.reload()
    assert (await ask(client))[0] == 502


async def test_files_that_change(
    start_gateway: StartGateway,
    backends: Backends,
    authority: Authority,
    foreign: Authority,
    good: Any,
    open_connection: Open,
    tmp_path: Path,
) -> None:
    """No reload is needed; what is broken changes nothing."""
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "gateway.pem", "gateway.key"))
    first, second = (authority.issue(name, client=True) for name in ("first", "second"))
    ca.write_bytes(authority.ca.read_bytes())
    cert.write_bytes(first.cert.read_bytes())
    key.write_bytes(first.key.read_bytes())
    shown: list[str] = []
    backend = await backends.scripted(tls=server(good, client_ca=authority.ca))

    async def script(connection: Connection) -> None:
        shown.append(connection.writer.get_extra_info("peercert")["subject"][0][0][1])
        await serves(backend, connection)

    backend.plays(script)
    config = to_tls(authority, backend.address)
    config["upstreams"]["one"]["tls"] = {"ca": str(ca), "cert": str(cert), "key": str(key)}
    gateway = await start_gateway(config)
    client = await open_connection(gateway)
    assert await ask(client) == (200, "ok")
    cert.write_bytes(second.cert.read_bytes())  # still with the key of the first
    gateway.tolerate(f"certificate {cert}: the key in {key} is not that of the certificate")
    await gateway.stderr.containing(
        f"the key in {key} is not that of the certificate in {cert}; the previous one stays"
    )
    assert await ask(client) == (200, "ok")
    key.write_bytes(second.key.read_bytes())
    await gateway.stderr.containing(f"certificates read again: {cert}")

    async def changed() -> bool:
        assert await ask(client) == (200, "ok")
        return len(shown) == 2

    await eventually(changed, "workers to hear of it")
    await gateway.kill_worker()  # the next one gets what was read last
    ca.write_bytes(foreign.ca.read_bytes())
    await gateway.stderr.containing(f"certificates read again: {ca}")
    client = await open_connection(gateway)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (answer := await ask(client))[0] == 200:
            pass
    assert (answer[0], "issued by nobody who is trusted" in answer[1]) == (502, True)
    assert set(shown) == {"first", "second"}
    assert shown[:2] == ["first", "second"]
