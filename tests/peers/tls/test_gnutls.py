"""``gnutls-cli``: suites, KeyUpdate, renegotiation, resumption, ALPN, records in pieces."""

from __future__ import annotations

import pytest

from tests.peers.tls.dribble import Dribble
from tests.peers.tls.talking import Gnutls

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
CIPHERS = ("AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305")
KINDS = {"p256": "SIGN-ECDSA-SECP256R1-SHA256", "rsa": "SIGN-RSA-PSS-RSAE-SHA256"}
EXCHANGES = {"p256": "ECDHE-ECDSA", "rsa": "ECDHE-RSA"}


def only(version: str, more: str = "") -> str:
    """Priorities with one version."""
    return f"NORMAL:-VERS-ALL:+VERS-TLS{version}{more}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cipher", CIPHERS)
@VERSIONS
async def test_each_suite(gnutls: Gnutls, version: str, cipher: str, kind: str) -> None:
    more = f":-CIPHER-ALL:+{cipher}:-SIGN-ALL:+{KINDS[kind]}:+SIGN-ECDSA-SHA256"
    if version == "1.2":
        more += f":-KX-ALL:+{EXCHANGES[kind]}"
    elif kind == "rsa":
        more = more.replace(":+SIGN-ECDSA-SHA256", ":+SIGN-RSA-SHA256")
    client = await gnutls(priority=only(version, more))
    found = await client.prints("- Description: ")
    assert f"(TLS{version}-X.509)" in found
    assert f"({cipher})" in found
    assert ("ECDSA" if kind == "p256" else "RSA") in found
    await client.get()
    await client.upload(100_000)
    await client.open_websocket()
    await client.echo()
    await client.echo(100_000)


@pytest.mark.parametrize("upgraded", [False, True], ids=["requests", "tunnel"])
async def test_key_updates(gnutls: Gnutls, upgraded: bool) -> None:
    """``rekey`` asks for the gateway's new keys as well; ``rekey1`` does not."""
    client = await gnutls(priority=only("1.3"))
    if upgraded:
        await client.open_websocket()
    for command in ("^rekey^", "^rekey1^", "^rekey^", "^rekey^"):
        await client.type(f"{command}\n")
        await client.prints("Rekey was completed")
        if upgraded:
            await client.echo()
            await client.echo(20_000)
        else:
            await client.get()
            await client.upload(20_000)


async def test_renegotiation_is_refused(gnutls: Gnutls) -> None:
    client = await gnutls(priority=only("1.2"))
    await client.get()
    await client.type("^renegotiate^\n")
    await client.prints("Received alert [100]: No renegotiation is allowed")
    assert await client.process.exited() == 1


@VERSIONS
async def test_a_session_is_resumed(gnutls: Gnutls, version: str) -> None:
    client = await gnutls(priority=only(version))
    await client.get()
    await client.type("^resume^\n")
    await client.prints("This is a resumed session")
    await client.upload(50_000)
    await client.open_websocket()
    await client.echo(50_000)


@VERSIONS
async def test_alpn(gnutls: Gnutls, version: str) -> None:
    client = await gnutls("--alpn", "h2", "--alpn", "http/1.1", priority=only(version))
    await client.prints("- Application protocol: http/1.1")
    await client.get()


@VERSIONS
async def test_records_in_single_bytes(gnutls: Gnutls, dribble: Dribble, version: str) -> None:
    client = await gnutls(priority=only(version), port=dribble.port)
    await client.get()
    if version == "1.3":
        await client.type("^rekey^\n")
        await client.prints("Rekey was completed")
    await client.upload(1000)
    await client.open_websocket()
    await client.echo(1000)
    assert dribble.forwarded > 5000
