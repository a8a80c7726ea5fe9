"""Finds the backends of upstreams with ``discover`` once, for ``gateway check --connect``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.config.errors import BadValue
from gateway.config.targets import read_targets
from gateway.processes.asking import ask
from gateway.processes.sources import Before, NotFound, Source, sources_of

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.config.settings_balancing import Backend

PATIENCE_SECONDS = 10.0
"""How long all answers that one source needs may take: SRV records name targets, which are looked up."""


class Discovered:
    """What sources of backends answer. Upstreams that share one have it asked once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._sources = sources_of(config)
        self._answers = {source: asyncio.ensure_future(_find(source)) for source in set(self._sources.values())}

    def source(self, upstream: str) -> Source | None:
        """Where an upstream's backends are found; None if it lists all of them itself."""
        return self._sources.get(upstream)

    async def backends(self, upstream: str) -> tuple[Backend, ...]:
        """The backends that an upstream with a source has beside those that it lists.

        :raises NotFound: the source cannot be used, or names none
        """
        listed = {backend.address for backend in self._config.upstreams[upstream].backends}
        found = await asyncio.shield(self._answers[self._sources[upstream]])
        return tuple(backend for backend in found if backend.address not in listed)

    def close(self) -> None:
        """Wait for no answers."""
        for answer in self._answers.values():
            answer.cancel()


async def _find(source: Source) -> tuple[Backend, ...]:
    """Ask a source, as the gateway does when it starts. :raises NotFound: it cannot be used, or names no backend"""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            if source.kind == "file":
                return (await asyncio.to_thread(read_targets, source.name)).backends
            return (await ask(source, Before())).backends
    except BadValue as error:
        raise NotFound(str(error)) from None
    except TimeoutError:
        raise NotFound(f"no answer within {PATIENCE_SECONDS:g} s") from None
