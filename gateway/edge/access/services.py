"""What the access rules of a worker share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.edge.access.credentials import Credentials
    from gateway.edge.access.passwords import Passwords
    from gateway.edge.addresses import Addresses
    from gateway.edge.limiting import Asking


def _passwords() -> Callable[[], Passwords]:
    @cache
    def passwords() -> Passwords:
        from gateway.edge.access.passwords import Passwords

        return Passwords()

    return passwords


@dataclass(frozen=True, slots=True)
class Services:
    """Everything outside of themselves that access rules use."""

    credentials: Credentials
    addresses: Addresses
    """of names"""
    count_auth: Callable[[str, str, str], None]
    """counts an answer of a method, by route, method and result"""
    take_handshake: Callable[[Asking], None] = lambda request: None
    """counts an upgrade against the limit of its client; raises :class:`Refused` beyond it"""
    passwords: Callable[[], Passwords] = field(default_factory=_passwords)
    """what is known of users' passwords: the same for all routes, and from one configuration to the next"""
    loop_mark: bytes = b""
    """names this gateway in ``CDN-Loop``"""
