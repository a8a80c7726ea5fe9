"""A request that the gateway answers itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.routing.routes import Route


class Refused(Exception):
    """Why a request is refused, and with which answer."""

    def __init__(self, status: int, reason: str, result: str, route: Route | None = None) -> None:
        """
        :param reason: what the client is told
        :param result: the ``result`` label of ``gateway_handshakes_total``
        """
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.result = result
        self.route = route
