"""Where backends can be dialled: literal addresses as they are, names by what the supervisor knows of them.

A worker never asks a name server: the supervisor does (``processes/resolving.py``), and sends the answers.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence

from gateway.config.address import Address
from gateway.observe.seldom import Seldom

SocketAddress = tuple[int, tuple[str, int] | tuple[str, int, int, int] | str]
"""A socket's family, and what its ``connect()`` takes."""

log = logging.getLogger("gateway")


class Addresses:
    """The addresses that one worker knows."""

    def __init__(self) -> None:
        self._names: Mapping[str, Sequence[str]] = {}
        self._made: dict[Address, list[SocketAddress]] = {}
        self._turns: dict[Address, int] = {}
        self._no_interface = Seldom(log.warning)

    def use(self, names: Mapping[str, Sequence[str]]) -> None:
        """Go by these answers from now on. :param names: IP addresses by name, best first; all that are known"""
        self._names = names
        self._made.clear()
        self._turns.clear()

    def of(self, address: Address) -> list[SocketAddress]:
        """Where a backend can be reached, best first; empty while that is not known. The list is not to be changed.

        The addresses of one name take turns at the front.
        """
        found = self._made.get(address)
        if found is None:
            found = self._make(address)
        if len(found) < 2:
            return found
        turn = self._turns[address] = (self._turns.get(address, -1) + 1) % len(found)
        return found[turn:] + found[:turn]

    def _make(self, address: Address) -> list[SocketAddress]:
        if address.path is not None:
            found: list[SocketAddress] = [(socket.AF_UNIX, address.path)]
        else:
            assert address.host is not None
            assert address.port is not None
            texts = self._names.get(address.host, ()) if address.name is not None else (address.host,)
            try:
                found = [_socket_address(text, address.port) for text in texts]
            except OSError:
                self._no_interface("backend %s: this machine has no such network interface", address)
                return []
            if any("%" in text for text in texts):
                return found  # an interface that is made anew has another number
        self._made[address] = found
        return found


def _socket_address(text: str, port: int) -> SocketAddress:
    """:raises OSError: its zone is no network interface of this machine (RFC 4007 section 11)"""
    if ":" not in text:
        return socket.AF_INET, (text, port)
    host, _, zone = text.partition("%")
    if not zone:
        return socket.AF_INET6, (host, port)
    return socket.AF_INET6, (host, port, 0, int(zone) if zone.isdecimal() else socket.if_nametoindex(zone))
