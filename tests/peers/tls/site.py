"""The gateway that TLS clients talk to: https and wss, certificates of both kinds, an echo and a web backend."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import Backends, StartGateway
from tests.support.backends import Web
from tests.support.certificates import Authority
from tests.support.gateway import Gateway, route
from tests.support.ports import free_port
from tests.support.scrape import Scrape
from tests.support.tls import trusting

NAME = "localhost"

TLS13_SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
TLS12_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""OpenSSL's names by those of IANA."""


class Site(NamedTuple):
    """A gateway with TLS. ``/ws…`` echoes messages, everything else is ``web``'s."""

    gateway: Gateway
    authority: Authority
    web: Web

    @property
    def address(self) -> str:
        return self.gateway.address

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    @property
    def unix(self) -> str:
        """A unix socket with TLS that it listens on, too."""
        found: str = self.gateway.config["listen"][1]["address"]
        return found

    @property
    def modern(self) -> str:
        """An address where nothing older than TLS 1.3 is served."""
        found: str = self.gateway.config["listen"][2]["address"]
        return found

    @property
    def ca(self) -> Path:
        return self.authority.ca

    def https(self, path: str) -> str:
        return f"https://{NAME}:{self.port}{path}"

    def wss(self, path: str = "/ws") -> str:
        return f"wss://{NAME}:{self.port}{path}"

    def trusting(self, version: str | None = None, suites: str | None = None) -> ssl.SSLContext:
        """A client's context."""
        return trusting(self.ca, version, suites)

    async def handshakes(self, version: str, least: float = 0) -> float:
        """How many succeeded, with ``1.2`` or ``1.3``.

        :param least: wait until it is that many: they are counted a little later
        """

        def count(scrape: Scrape) -> float:
            return scrape.value("gateway_tls_handshakes_total", side="client", result="ok", version=version)

        return count(await self.gateway.until(lambda scrape: count(scrape) >= least, f"{least:g} handshakes"))


async def start_site(start_gateway: StartGateway, backends: Backends, directory: Path, **keys: Any) -> Site:
    """Start one. :param keys: more of the configuration"""
    authority = Authority(directory)
    pairs = [authority.issue(NAME, "127.0.0.1", kind=kind, file=kind).section for kind in ("p256", "rsa")]
    echo, web = await backends.echo(compression="deflate"), await backends.web()
    gateway = await start_gateway(
        {
            "trusted_proxies": ["127.0.0.1"],
            "listen": [
                {"address": f"127.0.0.1:{free_port()}", "tls": {"certificates": pairs}},
                {"address": f"unix:{directory}/tls.sock", "tls": {"certificates": pairs}},
                {"address": f"127.0.0.1:{free_port()}", "tls": {"certificates": pairs, "min_version": "1.3"}},
            ],
            "upstreams": {"echo": {"backends": [echo.address]}, "web": {"backends": [web.address]}},
            "routes": [route("ws", "echo"), route("web", "web", "/")],
            **keys,
        }
    )
    return Site(gateway, authority, web)
