"""Looks up backends that are configured by name, in the supervisor for all workers.

Nothing waits on a name server. Each lookup runs in its own thread, since ``getaddrinfo`` blocks and cannot be
cancelled; ``lookups.py`` schedules them. Workers are sent all known addresses, and again whenever these change. When a
name server fails, the last good answer stays in use until there is another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from gateway.config.address import Address
from gateway.processes.lookups import PATIENCE_SECONDS, Addresses, Lookups

LOG_AGAIN_SECONDS = 600.0
"""How often a name that keeps failing is logged."""

MOST_LOGGED = 10
"""At most this many names go into one log line."""

log = logging.getLogger("gateway")


class Resolving:
    """The backend names of one gateway, and their addresses."""

    def __init__(
        self,
        changed: Callable[[dict[str, Addresses]], None],
        known: Mapping[str, Iterable[str]] | None = None,
        look_up: Callable[[str], Addresses] | None = None,
    ) -> None:
        """
        :param changed: called with all known IP addresses, by name, when they have changed
        :param known: the addresses known to a previous process
        :param look_up: called in a thread; raises OSError if a name does not resolve
        """
        self._changed = changed
        self._before = {name: tuple(addresses) for name, addresses in (known or {}).items()}
        self._look_up = look_up or addresses_of
        self._lookups = Lookups()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        """set when a lookup has ended"""
        self._timer: asyncio.TimerHandle | None = None
        self._reporting: asyncio.Handle | None = None
        self._logged: dict[str, float] = {}
        """when the failure of a name was logged last"""
        self._closed = False

    def use(self, addresses: Iterable[Address]) -> None:
        """Look up exactly the names among these addresses from now on."""
        names = {name for address in addresses if (name := address.name) is not None}
        before = self._lookups.known()
        self._lookups.want(names, time.monotonic(), self._before)
        self._before = {}
        self._logged = {name: at for name, at in self._logged.items() if name in names}
        if self._lookups.known() != before:
            self._changed(self.known())
        self._go_on()

    def known(self) -> dict[str, Addresses]:
        """Return the IP addresses of each name that ever resolved. IPv6 addresses may have a zone index (``%2``)."""
        return self._lookups.known()

    async def first_answers(self, seconds: float) -> None:
        """Wait until every name has been looked up once, successfully or not, but at most this long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._lookups.untried():
                    self._ended.clear()
                    await self._ended.wait()

    def close(self) -> None:
        """Stop looking up names. Threads that wait for an answer end with the process."""
        self._closed = True
        for handle in (self._timer, self._reporting):
            if handle is not None:
                handle.cancel()

    def _go_on(self) -> None:
        """Start the lookups that are due, and set a timer for the next."""
        if self._closed:
            return
        now = time.monotonic()
        self._log_failure(self._lookups.become_late(now), f"no answer yet after {PATIENCE_SECONDS:g} s")
        for name in self._lookups.begin(now):
            thread = threading.Thread(target=self._run, args=(name,), name=f"lookup of {name}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no room for another thread
                self._loop.call_soon(self._end, name, (), error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._lookups.next_at(now)
        if at is not None:
            self._timer = self._loop.call_later(at - now, self._go_on)

    def _run(self, name: str) -> None:
        """Look up a name. Runs in a thread."""
        addresses: Addresses = ()
        failure: Exception | None = None
        try:
            addresses = self._look_up(name)
        except Exception as error:  # of any kind: the name is retried only after _end()
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, so the answer is not needed
            self._loop.call_soon_threadsafe(self._end, name, addresses, failure)

    def _end(self, name: str, addresses: Addresses, failure: Exception | None) -> None:
        """Process the result of a lookup."""
        if self._closed:
            return
        changed = self._lookups.end(name, addresses, time.monotonic())
        if failure is not None:
            reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
            self._log_failure([name], reason)
        elif self._logged.pop(name, None) is not None:
            log.info("backend name %s resolves again: %s", name, ", ".join(addresses))
        if changed:
            self._report_soon()
        self._ended.set()
        self._go_on()

    def _log_failure(self, names: Iterable[str], reason: str) -> None:
        """Log that names do not resolve, except those that were logged recently."""
        now = time.monotonic()
        names = [name for name in names if now - self._logged.get(name, -LOG_AGAIN_SECONDS) >= LOG_AGAIN_SECONDS]
        self._logged |= dict.fromkeys(names, now)
        known = self._lookups.known()
        for some, instead in (
            ([name for name in names if name in known], "their last addresses stay in use"),
            (
                [name for name in names if name not in known],
                "requests for them get 502 (503 if they are auth servers) until they do",
            ),
        ):
            if some:
                more = f" and {len(some) - MOST_LOGGED} more" if len(some) > MOST_LOGGED else ""
                log.warning(
                    "backend names do not resolve: %s%s (%s); %s",
                    ", ".join(some[:MOST_LOGGED]),
                    more,
                    reason,
                    instead,
                )

    def _report_soon(self) -> None:
        """Report soon, so that many answers at once become one message."""
        if self._reporting is None and not self._closed:
            self._reporting = self._loop.call_soon(self._report)

    def _report(self) -> None:
        self._reporting = None
        self._changed(self.known())


def addresses_of(name: str) -> Addresses:
    """Ask the system's resolver; best address first (RFC 6724). :raises OSError: the name does not resolve"""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    # A link-local IPv6 address comes with a zone index.
    texts = [f"{to[0]}%{to[3]}" if len(to) == 4 and to[3] and "%" not in str(to[0]) else str(to[0]) for *_, to in found]
    return tuple(dict.fromkeys(texts))
