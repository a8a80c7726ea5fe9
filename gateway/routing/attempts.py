"""Which backend is tried next, for a tunnel as for a request.

A backend that is given by name may have several addresses; some of them are tried before another backend is. The
next backend is chosen only after the previous one has failed, since most succeed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.config.address import Address
from gateway.routing.balancing import Key, Target
from gateway.routing.upstream import Upstream

MOST_ADDRESSES = 3
"""Tried of one backend."""

SocketAddress = tuple[int, tuple[str, int] | tuple[str, int, int, int] | str]
"""A socket's family, and what its ``connect()`` takes."""

Attempt = tuple[Target, int, tuple[str, int] | tuple[str, int, int, int] | str]
"""A backend, a socket's family, and what its ``connect()`` takes."""


class Attempts:
    """The attempts of one tunnel or request to reach a backend of an upstream.

    At most ``connect_retries`` backends are tried after the first. One whose name has no address is skipped; it does
    not count as tried, as it took no time.
    """

    __slots__ = (
        "_addresses",
        "_at",
        "_brief",
        "_found",
        "_key",
        "_left",
        "_tried",
        "_upstream",
        "target",
        "unresolved",
    )

    def __init__(
        self,
        upstream: Upstream,
        addresses: Callable[[Address], Sequence[SocketAddress]],
        key: Key | None = None,
        brief: bool = False,
    ) -> None:
        """
        :param addresses: where a backend can be reached, best first; empty if its name does not resolve
        :param key: what policies that hash look at
        :param brief: it is a request, which is over soon, rather than a tunnel, which stays
        """
        self._upstream = upstream
        self._addresses = addresses
        self._key = key
        self._brief = brief
        self._found: Sequence[SocketAddress] = ()
        self._at = 0
        self._left = upstream.connect_retries + 1
        self._tried: tuple[Target, ...] = ()
        self.target: Target | None = None
        """the backend of the latest attempt; None before the first"""
        self.unresolved: tuple[Target, ...] = ()
        """backends that were skipped so far, as their names have no address"""

    def next(self) -> Attempt | None:
        """Return what to connect to next; None if nothing is left to try."""
        at = self._at
        if at < len(self._found) and at < MOST_ADDRESSES:
            assert self.target is not None
            self._at = at + 1
            family, address = self._found[at]
            return self.target, family, address
        if not self._left:
            return None
        pick = self._upstream.pick
        while target := pick(self._key, self._tried, brief=self._brief):
            self._tried += (target,)
            if found := self._addresses(target.address):
                self._left -= 1
                self._found = found
                self._at = 1
                self.target = target
                family, address = found[0]
                return target, family, address
            self.unresolved += (target,)
        self._left = 0
        return None

    def instead(self) -> Attempt | None:
        """Return what to connect to in place of the latest attempt, which has not failed; None if nothing else is left
        to try. The attempt does not count as one."""
        tried, left, found, at, target = self._tried, self._left, self._found, self._at, self.target
        self._left += 1
        self._found = ()
        attempt = self.next()
        if attempt is None:
            self._tried, self._left, self._found, self._at, self.target = tried, left, found, at, target
        return attempt

    def why_none(self) -> str:
        """Why there was nothing to connect to, where no attempt was made."""
        return self._upstream.why_none()
