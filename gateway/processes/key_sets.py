"""Key sets that the supervisor fetches, for all workers.

Each is fetched at the start, from time to time, and when a token names a key that it lacks. When that fails, the keys
from before stay in use for as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gateway.config.credentials import Credentials, KeyServer, may_verify, parse_key_set, shown
from gateway.config.errors import BadValue
from gateway.imports import without_collections

if TYPE_CHECKING:
    from gateway.processes.key_fetching import Fetch

ASKED_SECONDS = 10.0
"""Unknown keys cause no more than one fetch in this time."""

ANSWER_SECONDS = 0.1
"""How soon those that ask meanwhile are answered: a flood of tokens with made-up keys is not a flood of messages."""

FIRST_RETRY_SECONDS = 1.0
"""Doubled after each failure, up to the time between two regular fetches."""

JITTER = 0.1
"""By which part of itself the time between two fetches varies, so that many gateways do not come at once."""

log = logging.getLogger("gateway")


class KeySets:
    """All of them."""

    def __init__(
        self,
        attempted: Callable[[bool], None],
        answered: Callable[[str], None],
        count: Callable[[str, bool], None],
        known: Mapping[str, str] | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        """
        :param attempted: called after each attempt, with whether ``texts`` has changed
        :param answered: called with the URL after that, and soon after each question that causes no attempt
        :param count: called with a route's name and whether its key set was fetched
        :param known: what a previous supervisor had fetched, by URL
        :param fetch: fetches a URL; by default over the network
        """
        self._attempted = attempted
        self._answered = answered
        self._count = count
        self._fetch = fetch
        self._known = dict(known or {})
        self._sets: dict[str, KeySet] = {}
        self._answering: set[str] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def use(self, credentials: Credentials) -> None:
        """Fetch the key sets of a configuration from now on, and no others."""
        servers = credentials.servers
        for url in self._sets.keys() - servers.keys():
            gone = self._sets.pop(url)
            self._ending.add(gone.task)
            gone.task.add_done_callback(self._ending.discard)
            gone.task.cancel()
            self._answer_soon(url)
        for url, server in servers.items():
            cas = [credentials.cas[path] for path in server.cas]
            if url in self._sets:
                self._sets[url].use(server, cas)
            else:
                self._sets[url] = KeySet(self, url, server, cas, self._known.pop(url, None))

    @property
    def texts(self) -> dict[str, str]:
        """Key sets by URL, as far as they could be fetched."""
        return {url: each.text for url, each in self._sets.items() if each.text is not None}

    @property
    def sets(self) -> Mapping[str, KeySet]:
        """All of them, by URL."""
        return self._sets

    async def first_attempts(self, seconds: float) -> None:
        """Wait until each set was fetched once or could not be, but no longer than so many seconds."""
        waits = [asyncio.ensure_future(each.attempted.wait()) for each in self._sets.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=seconds)
            for wait in late:
                wait.cancel()

    def wanted(self, url: str) -> None:
        """A worker lacks a key: fetch the set, unless that was done lately."""
        found = self._sets.get(url)
        if found is None or not found.ask():
            self._answer_soon(url)

    def _answer_soon(self, url: str) -> None:
        if url not in self._answering:
            self._answering.add(url)
            asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._answer, url)

    def _answer(self, url: str) -> None:
        self._answering.discard(url)
        self._answered(url)

    async def attempt(self, each: KeySet) -> None:
        """Fetch a set once."""
        if self._fetch is None:
            self._fetch = await asyncio.to_thread(_import_fetch)
        error = None
        changed = False
        try:
            text = await self._fetch(each.url, each.cas, each.server.system_cas)
            keys = parse_key_set(text)
            if not any(map(may_verify, keys)):  # as from a server that is being set up anew
                raise ValueError("no key of the answer can be used")
            entries = len(keys)
        except BadValue as failure:
            error = failure.message
        except ValueError as failure:
            error = str(failure)
        except Exception as failure:
            log.exception("key set %s: unexpected error", shown(each.url))
            error = type(failure).__name__
        else:
            changed = each.take(text, entries)
        if error is not None:
            each.failed(error)
        for route in each.server.routes:
            self._count(route, error is None)
        self._attempted(changed)
        self._answered(each.url)

    async def close(self) -> None:
        """Fetch nothing more."""
        tasks = [each.task for each in self._sets.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)


class KeySet:
    """One of them."""

    def __init__(self, owner: KeySets, url: str, server: KeyServer, cas: list[str], text: str | None) -> None:
        """:param text: as it was fetched before"""
        self.url = url
        self.server = server
        self.cas = cas
        self.text = text
        self.entries: int | None = None
        """how many keys are in it"""
        self.fetched_unix: float | None = None
        """when the latest attempt that succeeded was made"""
        self.error: str | None = None
        """why the latest attempt failed"""
        self.attempted = asyncio.Event()
        """set when the first attempt is over"""
        if text is not None:
            with contextlib.suppress(ValueError):
                self.entries = len(parse_key_set(text))
        self._owner = owner
        self._failures = 0
        self._fetching = False
        self._asked = asyncio.Event()
        self._asked_at = -ASKED_SECONDS
        self.task = asyncio.create_task(self._run())

    def use(self, server: KeyServer, cas: list[str]) -> None:
        """Fetch it like this from now on."""
        if (server, cas) != (self.server, self.cas):
            self.server, self.cas = server, cas
            self._asked.set()

    def ask(self) -> bool:
        """Have it fetched now. :returns: whether an attempt is under way, or begins"""
        if self._fetching:
            return True
        now = time.monotonic()
        if now - self._asked_at < ASKED_SECONDS:
            return self._asked.is_set()
        self._asked_at = now
        self._asked.set()
        return True

    async def _run(self) -> None:
        while True:
            self._asked.clear()
            self._fetching = True
            try:
                await self._owner.attempt(self)
            except Exception:
                log.exception("key set %s: unexpected error", shown(self.url))
            finally:
                self._fetching = False
                self.attempted.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._asked.wait()

    def _pause(self) -> float:
        """Seconds until the next attempt."""
        pause = self.server.refresh
        if self._failures:
            pause = min(pause, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 20))
        return pause * random.uniform(1 - JITTER, 1 + JITTER)

    def take(self, text: str, entries: int) -> bool:
        """Take what was fetched. :param entries: how many keys it has. :returns: whether it differs from before"""
        if self._failures:
            log.info("key set %s: fetched again after %d failures", shown(self.url), self._failures)
        self._failures = 0
        self.error = None
        self.fetched_unix = time.time()
        self.entries = entries
        if text == self.text:
            return False
        what = "fetched" if self.text is None else "changed"
        log.info("key set %s: %s, %d keys", shown(self.url), what, entries)
        self.text = text
        return True

    def failed(self, error: str) -> None:
        """Note that an attempt failed. Only the first of a series is logged."""
        if not self._failures:
            effect = (
                "requests with tokens get 503 until it can be"
                if self.text is None
                else "the keys from before stay in use"
            )
            log.error("key set %s cannot be fetched: %s; %s", shown(self.url), error, effect)
        self._failures += 1
        self.error = error


def _import_fetch() -> Fetch:
    with without_collections():
        from gateway.processes.key_fetching import fetch
    return fetch
