"""Which host names are looked up when, and what is known of each.

A lookup takes as long as the system's resolver likes, and nothing ends it early. So one that is late leaves its place
to others, and its answer is used whenever it comes. Pure: no threads, and the clock comes in, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

REFRESH_SECONDS = 30.0
"""Between an answer and the next lookup."""

RETRY_SECONDS = 5.0
"""The same where nothing is known of the name yet."""

PATIENCE_SECONDS = 2.0
"""After which a lookup is late."""

AT_ONCE = 32
"""Lookups under way that are not late."""

MOST = 256
"""Lookups under way in all. The last ``AT_ONCE`` of them are for names that were not late the last time."""

Addresses = tuple[str, ...]


class _Host:
    """What is known of one name."""

    __slots__ = ("addresses", "begun", "due", "late", "tried", "wanted")

    def __init__(self, now: float, addresses: Addresses) -> None:
        self.addresses = addresses
        self.begun: float | None = None
        self.due = now
        self.late = False
        """the lookup under way is, or the one before was"""
        self.tried = False
        self.wanted = True


class Lookups:
    """All names of one gateway."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    def want(self, hosts: Iterable[str], now: float, known: dict[str, Addresses] | None = None) -> None:
        """Have just these names known from now on.

        :param known: addresses from before this process, which are used until there is an answer
        """
        wanted = set(hosts)
        for name, host in list(self._hosts.items()):
            host.wanted = name in wanted
            if not host.wanted and host.begun is None:
                del self._hosts[name]
        for name in sorted(wanted - self._hosts.keys()):
            self._hosts[name] = _Host(now, (known or {}).get(name, ()))

    def known(self) -> dict[str, Addresses]:
        """The latest answer for each name that has one."""
        return {name: host.addresses for name, host in self._hosts.items() if host.wanted and host.addresses}

    def untried(self) -> bool:
        """Whether there is a name of which nothing is known, not even that it does not resolve."""
        return any(host.wanted and not host.tried and not host.addresses for host in self._hosts.values())

    def begin(self, now: float) -> list[str]:
        """Names to look up now; they count as under way until :meth:`end`."""
        under_way = [host for host in self._hosts.values() if host.begun is not None]
        places = AT_ONCE - sum(not host.late for host in under_way)
        begun: list[str] = []
        for name, host in sorted(self._waiting(now), key=lambda item: (item[1].late, item[1].due)):
            most = MOST - AT_ONCE if host.late else MOST
            if len(begun) < places and len(under_way) + len(begun) < most:
                begun.append(name)
        for name in begun:
            host = self._hosts[name]
            host.begun = now
            host.late = False
        return begun

    def become_late(self, now: float) -> list[str]:
        """Names whose lookup has just become late: others may begin."""
        late = []
        for name, host in self._hosts.items():
            if host.begun is not None and not host.late and now >= host.begun + PATIENCE_SECONDS:
                host.late = True
                if host.wanted:
                    late.append(name)
        return late

    def end(self, name: str, addresses: Addresses, now: float) -> bool:
        """A lookup has ended. :param addresses: none if it failed. :returns: whether other addresses are known now"""
        host = self._hosts[name]
        host.begun = None
        host.tried = True
        if not host.wanted:
            del self._hosts[name]
            return False
        # Name servers shuffle their answers: the order alone is no news.
        changed = bool(addresses) and set(addresses) != set(host.addresses)
        if changed:
            host.addresses = addresses
        host.due = now + (REFRESH_SECONDS if host.addresses else RETRY_SECONDS)
        return changed

    def next_at(self, now: float) -> float | None:
        """When :meth:`begin` or :meth:`become_late` is due again if no lookup ends before; None for never."""
        hosts = self._hosts.values()
        times = [host.begun + PATIENCE_SECONDS for host in hosts if host.begun is not None and not host.late]
        times += [host.due for host in hosts if host.begun is None and host.due > now]
        return min(times, default=None)

    def _waiting(self, now: float) -> list[tuple[str, _Host]]:
        return [(name, host) for name, host in self._hosts.items() if host.begun is None and host.due <= now]
