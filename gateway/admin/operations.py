"""What the admin API can have the supervisor do (``processes/orders.py``). This module imports no aiohttp."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Protocol

from gateway.admin.state import DrainState, UpgradeState


class NotDone(Exception):
    """The gateway did not do what it was told; ``str()`` says why."""


class Operations(Protocol):
    """What can be done with a running gateway."""

    async def reload(self) -> None:
        """Put the configuration file in force. :raises NotDone: it is wrong, or the gateway is shutting down"""

    async def drain(self) -> DrainState:
        """Begin to drain, to exit in the end; hurry where it drains already. :raises NotDone: it is exiting"""

    async def drain_backends(self, backends: frozenset[int]) -> list[DrainState]:
        """Begin to drain backends, by number. :raises NotDone: the gateway is shutting down"""

    async def upgrade(self, connection: int) -> None:
        """Become the program that is installed now, which answers whoever waits.

        :param connection: a descriptor of theirs
        :raises NotDone: it is not fit for that, or the gateway is shutting down. Returns in no other way
        """

    async def stop(self) -> None:
        """Exit. :raises NotDone: it is exiting already"""


def answer_upgrade(connection: int, upgrade: UpgradeState) -> None:
    """Answer a request for an upgrade that the program before this one has received, and close the connection."""
    body = json.dumps({"upgraded": True, "time": upgrade.unix} if upgrade.ok else {"error": upgrade.error}).encode()
    head = (
        f"HTTP/1.1 {'200 OK' if upgrade.ok else '409 Conflict'}\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    with socket.socket(fileno=connection) as sock, contextlib.suppress(OSError):
        sock.settimeout(0)  # a few hundred bytes; who does not take them does not get them
        sock.send(head.encode() + body)
