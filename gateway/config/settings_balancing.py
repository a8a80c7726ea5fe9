"""Backends and how one of them is chosen, as workers are sent it; see ``settings.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gateway.config.address import Address

if TYPE_CHECKING:
    from gateway.config import schema


class Backend(NamedTuple):
    """One server of an upstream."""

    address: Address
    weight: int
    max_tunnels: int | None
    """over all workers; None for any number"""
    backup: bool
    drain: bool
    """whether it gets nothing new"""

    @classmethod
    def of(cls, backend: schema.Backend) -> Backend:
        """Convert a backend."""
        return cls(backend.address, backend.weight, backend.max_tunnels, backend.backup, backend.drain)


class Sticky(NamedTuple):
    """The cookie that names a client's backend."""

    cookie: str
    """its name"""
    secret: str | None
    """None for the gateway's own"""
    ttl: float | None
    """seconds; None while the browser runs"""

    def __repr__(self) -> str:
        return f"Sticky({self.cookie})"  # secrets belong in no log

    @classmethod
    def of(cls, upstream: schema.Upstream) -> Sticky | None:
        """Convert the cookie of an upstream. :returns: None if it has none"""
        sticky = upstream.resolved_sticky()
        return None if sticky is None else cls(sticky.cookie, sticky.secret, sticky.ttl)
