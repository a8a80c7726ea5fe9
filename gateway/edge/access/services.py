"""What the access rules of a worker share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.edge.access.credentials import Credentials
    from gateway.edge.addresses import Addresses
    from gateway.edge.limiting import Asking


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
