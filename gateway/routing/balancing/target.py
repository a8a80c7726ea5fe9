"""A backend, as routes and policies know it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.address import Address


@dataclass(frozen=True, slots=True)
class Target:
    """A backend to connect to."""

    number: int
    """as the shared table knows it"""
    upstream: str
    address: Address
    weight: int
    label: str
    """its address as metrics show it"""
    max_tunnels: int = 0
    """how many tunnels it may have, over all workers; 0 for any number"""
    backup: bool = False
    """whether it is used only while no other backend can be"""
