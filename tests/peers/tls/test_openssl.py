"""``openssl s_client``: suites, KeyUpdate, renegotiation, resumption, ALPN, records in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.tls.dribble import Dribble
from tests.peers.tls.site import TLS12_SUITES, TLS13_SUITES, Site
from tests.peers.tls.talking import SClient
from tests.support.raw import request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
SENT, RECEIVED = ">>> TLS 1.3, ", "<<< TLS 1.3, "
KEY_UPDATE = "Handshake [length 0005], KeyUpdate"
RSA, P256 = "rsa_pss_rsae_sha256", "ecdsa_secp256r1_sha256"
SUITES: list[tuple[tuple[str, ...], str, str]] = [
    (("-tls1_3", "-ciphersuites", suite, "-sigalgs", kind), suite, kind)
    for suite in TLS13_SUITES
    for kind in (RSA, P256)
]
SUITES += [(("-tls1_2", "-cipher", suite), suite, P256 if "ECDSA" in suite else RSA) for suite in TLS12_SUITES.values()]


def only(version: str) -> str:
    """The option for one version."""
    return f"-tls{version.replace('.', '_')}"


@pytest.mark.parametrize(
    ("options", "suite", "signature"), SUITES, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_each_suite(s_client: SClient, options: tuple[str, ...], suite: str, signature: str) -> None:
    """With a certificate of either kind; requests of many records, then a WebSocket on the same connection."""
    client = await s_client(*options)
    await client.process.stderr.containing(f"Ciphersuite: {suite}")
    await client.process.stderr.containing(f"Signature type: {'ECDSA' if signature == P256 else 'RSA-PSS'}")
    await client.get()
    await client.upload(100_000)
    await client.open_websocket()
    await client.echo()
    await client.echo(100_000)


@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384"])
@VERSIONS
async def test_each_group(s_client: SClient, version: str, group: str) -> None:
    client = await s_client(only(version), "-groups", group)
    found = await client.process.stderr.containing("Server Temp Key: ")
    assert {"P-256": "prime256v1", "P-384": "secp384r1"}.get(group, group) in found
    await client.get()


# --- KeyUpdate --------------------------------------------------------------------------------------------------------


async def test_key_updates_between_requests(s_client: SClient, tmp_path: Path) -> None:
    client = await s_client("-tls1_3", trace=tmp_path / "trace")
    await client.get()
    for number in range(1, 4):
        await client.type("K\n")
        await client.traces(RECEIVED + KEY_UPDATE, number)  # before anything else is asked
        await client.get()
    await client.type("k\n")
    await client.traces(SENT + KEY_UPDATE, 4)
    await client.upload(100_000)
    assert client.traced(RECEIVED + KEY_UPDATE) == 3  # the last one was not to be answered
    assert client.traced(SENT + KEY_UPDATE) == 4  # and no answer asked for one


async def test_key_updates_in_a_tunnel(s_client: SClient, tmp_path: Path) -> None:
    client = await s_client("-tls1_3", trace=tmp_path / "trace")
    await client.open_websocket()
    for number, size in enumerate((30, 20_000, 30), 1):
        await client.type("K\n")
        await client.traces(RECEIVED + KEY_UPDATE, number)
        await client.echo(size)
    await client.type("k\n")
    await client.traces(SENT + KEY_UPDATE, 4)
    await client.echo(100_000)
    assert client.traced(RECEIVED + KEY_UPDATE) == 3
    assert client.traced(SENT + KEY_UPDATE) == 4


# --- renegotiation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgraded", [False, True], ids=["request", "tunnel"])
async def test_renegotiation_is_refused(s_client: SClient, site: Site, tmp_path: Path, upgraded: bool) -> None:
    client = await s_client("-tls1_2", trace=tmp_path / "trace")
    if upgraded:
        await client.open_websocket()
        await client.echo()
    else:
        await client.get()
    await client.type("R\n")
    assert await client.process.exited() == 1
    await client.process.stderr.containing("no renegotiation")
    assert client.traced("ClientHello") == 2
    assert client.traced(", ServerHello\n") == 1
    assert client.traced("<<< TLS 1.2, Alert [length 0002], warning no_renegotiation") == 1
    if upgraded:
        await site.gateway.tunnels(0)


async def test_secure_renegotiation_is_announced(s_client: SClient) -> None:
    """As RFC 5746 3.6 wants it even of servers that refuse each one."""
    client = await s_client("-tls1_2", brief=False)
    await client.prints("Secure Renegotiation IS supported")


# --- resumption -------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_a_session_is_resumed(s_client: SClient, tmp_path: Path, version: str) -> None:
    """Sessions are OpenSSL's own, and what comes behind the handshake is not."""
    file = str(tmp_path / "session")
    first = await s_client(only(version), "-sess_out", file, brief=False)
    await first.prints("New, TLSv1.")
    await first.get()
    await first.type("Q\n")
    assert await first.process.exited() == 0
    second = await s_client(only(version), "-sess_in", file, brief=False)
    await second.prints(f"Reused, TLSv{version}")
    await second.upload(50_000)
    await second.open_websocket()
    await second.echo(50_000)


async def test_a_session_without_a_ticket_is_not_resumed(s_client: SClient, tmp_path: Path) -> None:
    """Workers keep no sessions (as nginx without ``ssl_session_cache``): the handshake is a full one."""
    file = str(tmp_path / "session")
    first = await s_client("-tls1_2", "-no_ticket", "-sess_out", file, brief=False)
    await first.prints("New, TLSv1.")
    await first.get()
    await first.type("Q\n")
    assert await first.process.exited() == 0
    second = await s_client("-tls1_2", "-no_ticket", "-sess_in", file, brief=False)
    await second.prints("New, TLSv1.2")
    await second.get()


# --- ALPN -------------------------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize(
    ("offered", "found"),
    [
        ("http/1.1", "ALPN protocol: http/1.1"),
        ("h2,http/1.1,http/1.0", "ALPN protocol: http/1.1"),
        (None, "No ALPN negotiated"),
    ],
)
async def test_alpn(s_client: SClient, version: str, offered: str | None, found: str) -> None:
    client = await s_client(only(version), *(("-alpn", offered) if offered else ()), brief=False)
    await client.prints(found)
    await client.get()


# --- pieces, ends -----------------------------------------------------------------------------------------------------


@VERSIONS
async def test_records_in_single_bytes(s_client: SClient, dribble: Dribble, version: str) -> None:
    client = await s_client(only(version), port=dribble.port)
    await client.get()
    await client.upload(1000)
    if version == "1.3":
        await client.type("K\n")
        await client.process.stderr.containing("KEYUPDATE")
    await client.open_websocket()
    await client.echo()
    await client.echo(1000)
    assert dribble.forwarded > 5000


@VERSIONS
async def test_the_end_is_announced(s_client: SClient, tmp_path: Path, version: str) -> None:
    client = await s_client(only(version), trace=tmp_path / "trace")
    await client.type(request("/", "Connection: close"))
    assert await client.process.exited() == 0
    for direction in ("<<<", ">>>"):
        assert client.traced(f"{direction} TLS {version}, Alert [length 0002], warning close_notify") == 1


@VERSIONS
async def test_small_records(s_client: SClient, version: str) -> None:
    """OpenSSL cuts what it sends; the gateway puts it together."""
    client = await s_client(only(version), "-split_send_frag", "512", "-max_send_frag", "512")
    await client.upload(50_000)
    await client.open_websocket()
    await client.echo(50_000)
