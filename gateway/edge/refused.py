"""A request that the gateway answers itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.protocol.heads import Field
    from gateway.routing.routes import Route


class Refused(Exception):
    """Why a request is refused, and with which answer."""

    def __init__(
        self,
        status: int,
        reason: str,
        result: str,
        route: Route | None = None,
        fields: Sequence[Field] = (),
        body: bytes | None = None,
    ) -> None:
        """
        :param reason: for the log, and what the client is told where there is no ``body``
        :param result: the ``result`` label of ``gateway_handshakes_total``
        :param fields: further fields of the answer, such as ``WWW-Authenticate``
        :param body: of the answer, in place of the reason; its type is in ``fields``
        """
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.result = result
        self.route = route
        self.fields = fields
        self.body = body
