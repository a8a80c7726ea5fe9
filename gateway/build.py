"""Which build of the relay runs: the compiled one if it was built, the pure one with ``GATEWAY_RELAY=pure``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

VARIABLE = "GATEWAY_RELAY"
TWO_BUILDS = frozenset(
    {
        "gateway.edge.splicing",
        "gateway.edge.tls.callback",
        "gateway.observe.batch",
        "gateway.observe.ends",
        "gateway.observe.forms",
        "gateway.observe.handshakes",
        "gateway.observe.line",
        "gateway.protocol.bodies",
        "gateway.protocol.headers",
        "gateway.protocol.known_heads",
        "gateway.protocol.pings",
        "gateway.protocol.scanner",
        "gateway.protocol.tls.protection",
        "gateway.protocol.tls.records",
        "gateway.protocol.tls.traffic",
        "gateway.tunnels.relay.deadlines",
        "gateway.tunnels.relay.ending",
        "gateway.tunnels.relay.failing",
        "gateway.tunnels.relay.kernel",
        "gateway.tunnels.relay.limiting",
        "gateway.tunnels.relay.metering",
        "gateway.tunnels.relay.pinging",
        "gateway.tunnels.relay.reading",
        "gateway.tunnels.relay.relay",
        "gateway.tunnels.relay.sealed",
        "gateway.tunnels.relay.streams",
        "gateway.tunnels.table.slice",
        "gateway.tunnels.table.texts",
        "gateway.tunnels.upkeep.attribution",
        "gateway.tunnels.upkeep.sweep",
    }
)


class PureSources:
    """Finds the Python source of a module for which Python itself would prefer the compiled one beside it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in TWO_BUILDS:
            return None
        import importlib.util
        from pathlib import Path

        source = Path(__file__).parent.joinpath(*name.split(".")[1:]).with_suffix(".py")
        return importlib.util.spec_from_file_location(name, source)


def prefer_pure_sources() -> None:
    """Import the pure build if the environment asks for it.

    :raises ValueError: the environment asks for neither ``pure`` nor ``compiled``
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "pure":
        sys.meta_path.insert(0, PureSources())
    elif wanted not in ("", "compiled"):
        raise ValueError(f"{VARIABLE}={wanted}: expected pure or compiled")


def relay_build() -> str:
    """Return which build this process runs: ``compiled`` or ``pure``."""
    from gateway.tunnels.relay.kernel import COMPILED

    return "compiled" if COMPILED else "pure"
