"""What a listener offers is Mozilla's "intermediate" (guidelines 5.7), without finite-field Diffie-Hellman; with
``min_version: "1.3"`` it is "modern"."""

from __future__ import annotations

import pytest

from tests.peers.servers import Servers, program
from tests.peers.tls.offering import (
    ALL_SUITES,
    FALLBACK_SCSV,
    HANDSHAKE_FAILURE,
    INAPPROPRIATE_FALLBACK,
    PROTOCOL_VERSION,
    SSL3,
    TLS10,
    TLS11,
    TLS12,
    TLS13,
    all_groups,
    all_suites,
    client_hello,
    offer,
)
from tests.peers.tls.site import Site
from tests.support.ports import free_port
from tests.support.raw import connect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

SUITES_OF_TLS13 = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
}
SUITES_OF_TLS12 = {
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
    0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
    0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0xCCA8: "ECDHE-RSA-CHACHA20-POLY1305",
    0xCCA9: "ECDHE-ECDSA-CHACHA20-POLY1305",
}
RSA_SUITES = [number for number, name in SUITES_OF_TLS12.items() if "RSA" in name and "ECDSA" not in name]
GROUPS = {0x001D: "X25519", 0x0017: "P-256", 0x0018: "P-384"}
NAMES = {SSL3: "SSL 3.0", TLS10: "TLS 1.0", TLS11: "TLS 1.1", TLS12: "TLS 1.2", TLS13: "TLS 1.3"}


def refusal(version: int) -> int:
    """The alert for a version that is not offered. SSL 3.0 has none that says so."""
    return HANDSHAKE_FAILURE if version == SSL3 else PROTOCOL_VERSION


@pytest.mark.parametrize("version", [SSL3, TLS10, TLS11], ids=NAMES.get)
async def test_old_versions_are_refused(site: Site, version: int) -> None:
    before = await site.gateway.scrape()
    assert (await offer(site.address, client_hello(version))).alert == refusal(version)
    await site.gateway.counts(before, "gateway_tls_handshakes_total", result="unsupported_version", version="-")


async def test_ssl2_is_no_tls(site: Site) -> None:
    """Its ClientHello is not even a record (RFC 6101 E)."""
    client = await connect(site.address)
    await client.send(b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\x01\x00\x80\x07\x00\xc0\x03" * 3 + bytes(16))
    answer = await client.ends()
    await client.close()
    assert answer[:1] in (b"", b"\x15")


@pytest.mark.parametrize(
    ("version", "suites"), [(TLS12, SUITES_OF_TLS12), (TLS13, SUITES_OF_TLS13)], ids=["1.2", "1.3"]
)
async def test_suites(site: Site, version: int, suites: dict[int, str]) -> None:
    assert await all_suites(site.address, version) == set(suites)


async def test_more_would_be_found(servers: Servers, site: Site) -> None:
    """Of a server that offers everything."""
    address = f"127.0.0.1:{free_port()}"
    pair = site.authority.issue("old.test", kind="rsa")
    await servers.start(
        *(program("openssl"), "s_server", "-quiet", "-accept", address, "-cert", pair.cert, "-key", pair.key),
        *("-cipher", "ALL:@SECLEVEL=0", "-groups", "X25519:P-256:P-384:X448:P-521"),
        accepts=address,
    )
    assert (await offer(address, client_hello(TLS10))).version == TLS10
    suites = await all_suites(address, TLS12)
    assert suites >= {*RSA_SUITES, 0x002F, 0x0033, 0x009C, 0x009E, 0xC013, 0xC027}
    assert await all_suites(address, TLS13) == set(SUITES_OF_TLS13)
    for version in (TLS12, TLS13):
        assert await all_groups(address, version, [*RSA_SUITES, *SUITES_OF_TLS13]) == {*GROUPS, 0x001E, 0x0019}


async def test_groups(site: Site) -> None:
    assert await all_groups(site.address, TLS13) == set(GROUPS)
    # An ECDSA certificate needs its own curve with TLS 1.2, whichever group is used.
    assert await all_groups(site.address, TLS12, RSA_SUITES) == set(GROUPS)


async def test_the_client_chooses_the_suite(site: Site) -> None:
    """A telephone without AES instructions asks for ChaCha20 first."""
    for suites in (SUITES_OF_TLS13, SUITES_OF_TLS12):
        version = TLS13 if suites is SUITES_OF_TLS13 else TLS12
        for first in suites:
            others = [number for number in suites if number != first]
            assert (await offer(site.address, client_hello(version, suites=[first, *others]))).suite == first


async def test_minimum_of_tls13(site: Site) -> None:
    for version in (SSL3, TLS10, TLS11, TLS12):
        assert (await offer(site.modern, client_hello(version))).alert == refusal(version), NAMES[version]
    assert await all_suites(site.modern, TLS13) == set(SUITES_OF_TLS13)
    assert await all_groups(site.modern, TLS13) == set(GROUPS)


async def test_a_downgrade_is_noticed(site: Site) -> None:
    """A client that could do better says so, and learns that the server can, too (RFC 7507)."""
    suites = [*SUITES_OF_TLS12, FALLBACK_SCSV]
    assert (await offer(site.address, client_hello(TLS12, suites=suites))).alert == INAPPROPRIATE_FALLBACK
    assert (await offer(site.address, client_hello(TLS11, suites=suites))).alert in (
        INAPPROPRIATE_FALLBACK,
        PROTOCOL_VERSION,
    )


async def test_no_compression(site: Site) -> None:
    for method in (1, 64):
        chosen = await offer(site.address, client_hello(TLS12, compressions=bytes((method, 0))))
        assert (chosen.alert, chosen.compression) == (None, 0)


async def test_no_signatures_with_sha1(site: Site) -> None:
    for version in (TLS12, TLS13):
        chosen = await offer(site.address, client_hello(version, signatures=[0x0201, 0x0203]))
        assert chosen.alert == HANDSHAKE_FAILURE, NAMES[version]
    chosen = await offer(site.address, client_hello(TLS12, suites=RSA_SUITES))
    assert chosen.signature in (0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601)


async def test_a_future_version_gets_the_best_there_is(site: Site) -> None:
    """A ClientHello that names a version nobody knows is no reason to fail (RFC 8446 D)."""
    hello = bytearray(client_hello(TLS12))
    hello[9:11] = b"\x03\x05"
    assert (await offer(site.address, bytes(hello))).version == TLS12
    grease = [0x0A0A, 0xFAFA]
    chosen = await offer(site.address, client_hello(TLS13, suites=[*grease, *ALL_SUITES], groups=[*grease, *GROUPS]))
    assert (chosen.version, chosen.alert) == (TLS13, None)
