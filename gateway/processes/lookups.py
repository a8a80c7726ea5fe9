"""Schedules lookups of host names, and keeps the answers.

A lookup takes as long as the system's resolver takes, and cannot be cancelled. A late lookup therefore gives up its
slot to others; its answer is used whenever it comes. Pure: no threads; the clock, in seconds, is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable

REFRESH_SECONDS = 30.0
"""From an answer to the next lookup."""

RETRY_SECONDS = 5.0
"""The same while the name has never resolved."""

PATIENCE_SECONDS = 2.0
"""A lookup that takes longer is late."""

AT_ONCE = 32
"""Limit of lookups in flight that are not late."""

MOST = 256
"""Limit of lookups in flight in all. The last ``AT_ONCE`` are reserved for names that were not late last time."""

Addresses = tuple[str, ...]


class _Host:
    """The state of one name."""

    __slots__ = ("addresses", "begun", "due", "late", "tried", "wanted")

    def __init__(self, now: float, addresses: Addresses) -> None:
        self.addresses = addresses
        self.begun: float | None = None
        self.due = now
        self.late = False
        """whether the lookup in flight, or the last one, is late"""
        self.tried = False
        self.wanted = True


class Lookups:
    """All names of one gateway."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    def want(self, hosts: Iterable[str], now: float, known: dict[str, Addresses] | None = None) -> None:
        """Look up exactly these names from now on.

        :param known: addresses from a previous process, used until there is an answer
        """
        wanted = set(hosts)
        for name, host in list(self._hosts.items()):
            host.wanted = name in wanted
            if not host.wanted and host.begun is None:
                del self._hosts[name]
        for name in sorted(wanted - self._hosts.keys()):
            self._hosts[name] = _Host(now, (known or {}).get(name, ()))

    def known(self) -> dict[str, Addresses]:
        """Return the latest answer for each name that has one."""
        return {name: host.addresses for name, host in self._hosts.items() if host.wanted and host.addresses}

    def untried(self) -> bool:
        """Whether some name has no addresses and its first lookup has not ended yet."""
        return any(host.wanted and not host.tried and not host.addresses for host in self._hosts.values())

    def begin(self, now: float) -> list[str]:
        """Return the names to look up now; they count as in flight until :meth:`end`."""
        in_flight = [host for host in self._hosts.values() if host.begun is not None]
        free_slots = AT_ONCE - sum(not host.late for host in in_flight)
        begun: list[str] = []
        for name, host in sorted(self._waiting(now), key=lambda item: (item[1].late, item[1].due)):
            most = MOST - AT_ONCE if host.late else MOST
            if len(begun) < free_slots and len(in_flight) + len(begun) < most:
                begun.append(name)
        for name in begun:
            host = self._hosts[name]
            host.begun = now
            host.late = False
        return begun

    def become_late(self, now: float) -> list[str]:
        """Return the names whose lookup has just become late, which frees slots for others."""
        late = []
        for name, host in self._hosts.items():
            if host.begun is not None and not host.late and now >= host.begun + PATIENCE_SECONDS:
                host.late = True
                if host.wanted:
                    late.append(name)
        return late

    def end(self, name: str, addresses: Addresses, now: float) -> bool:
        """End a lookup. :param addresses: empty if it failed. :returns: whether the name's addresses have changed"""
        host = self._hosts[name]
        host.begun = None
        host.tried = True
        if not host.wanted:
            del self._hosts[name]
            return False
        # Name servers shuffle their answers: a change of order alone does not count.
        changed = bool(addresses) and set(addresses) != set(host.addresses)
        if changed:
            host.addresses = addresses
        host.due = now + (REFRESH_SECONDS if host.addresses else RETRY_SECONDS)
        return changed

    def next_at(self, now: float) -> float | None:
        """When to call :meth:`become_late` and :meth:`begin` again if no lookup ends before; None for never."""
        hosts = self._hosts.values()
        times = [host.begun + PATIENCE_SECONDS for host in hosts if host.begun is not None and not host.late]
        times += [host.due for host in hosts if host.begun is None and host.due > now]
        return min(times, default=None)

    def _waiting(self, now: float) -> list[tuple[str, _Host]]:
        return [(name, host) for name, host in self._hosts.items() if host.begun is None and host.due <= now]
