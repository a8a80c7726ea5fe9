"""A route's rules together: the first that refuses a request decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.edge.access.addresses import Addresses
from gateway.edge.access.origins import Origins
from gateway.edge.refused import Refused

if TYPE_CHECKING:
    from gateway.config import settings
    from gateway.edge.trust import Trust
    from gateway.protocol.heads import RequestHead
    from gateway.routing.routes import Route


class Entering(Protocol):
    """A request, as rules see it (``edge/request.py``)."""

    head: RequestHead
    client: str
    route: Route


class Access:
    """The rules of a route."""

    def __init__(self, rules: settings.Access, trust: Trust) -> None:
        """:param trust: knows a client's address"""
        self._trust = trust
        self._addresses = Addresses(rules.allow, rules.deny) if rules.allow or rules.deny else None
        self._origins = Origins(rules.origins) if rules.origins else None

    def check(self, request: Entering) -> None:
        """Let a request in. :raises Refused: a rule does not"""
        if self._addresses is not None and not self._addresses.allows(self._trust.address_of(request.client)):
            raise Refused(403, "this address is not allowed here", "forbidden", request.route)
        if self._origins is not None:
            refusal = self._origins.refusal(request.head)
            if refusal is not None:
                raise Refused(403, refusal, "forbidden", request.route)
