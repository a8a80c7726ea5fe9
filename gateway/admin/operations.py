"""What the admin API can order the supervisor to do (``processes/orders.py``)."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Protocol

from gateway.admin.rebalances import RebalanceAsked, RebalanceState
from gateway.admin.state import DrainState, UpgradeState


class NotDone(Exception):
    """The gateway did not carry out an order; ``str()`` says why."""


class Operations(Protocol):
    """Orders to a running gateway."""

    async def reload(self) -> None:
        """Apply the configuration file. :raises NotDone: it is invalid, or the gateway is shutting down"""

    async def drain(self) -> DrainState:
        """Start to drain and then exit; if already draining, close the rest at once. :raises NotDone: it is exiting"""

    async def drain_backends(self, backends: frozenset[int]) -> list[DrainState]:
        """Start to drain backends, by number. :raises NotDone: the gateway is shutting down"""

    async def rebalance(self, asked: RebalanceAsked) -> list[RebalanceState]:
        """Begin to move tunnels to where they belong, or only plan that. :raises NotDone: the gateway is shutting down

        :returns: for each upstream, in order
        """

    async def upgrade(self, connection: int) -> None:
        """Replace this program with the one that is installed now, which then answers the client. Does not return.

        :param connection: descriptor of the client's connection
        :raises NotDone: the new program cannot take over, or the gateway is shutting down
        """

    async def stop(self) -> None:
        """Exit. :raises NotDone: it is already exiting"""


def answer_upgrade(connection: int, upgrade: UpgradeState) -> None:
    """Answer a request for an upgrade that the previous program received, and close the connection."""
    body = json.dumps({"upgraded": True, "time": upgrade.unix} if upgrade.ok else {"error": upgrade.error}).encode()
    head = (
        f"HTTP/1.1 {'200 OK' if upgrade.ok else '409 Conflict'}\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    with socket.socket(fileno=connection) as sock, contextlib.suppress(OSError):
        sock.settimeout(0)  # it is a few hundred bytes: if they cannot be sent at once, give up
        sock.send(head.encode() + body)
