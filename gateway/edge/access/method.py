"""What a way of proving who one is looks like to the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.edge.access.granted import Granted
    from gateway.edge.refused import Refused
    from gateway.edge.trust import Peer
    from gateway.protocol.heads import RequestHead
    from gateway.routing.routes import Route


class Entering(Protocol):
    """A request, as rules see it (``edge/request.py``)."""

    head: RequestHead
    target: bytes
    peer: Peer
    client: str
    route: Route
    upgrade: bytes | None
    request_id: str


Verdict = Callable[["Granted | Refused"], None]
Cancel = Callable[[], None]
Waiting = Callable[[Verdict], Cancel]
"""An answer that takes time. It is called with what takes the verdict, and returns what cancels it. The verdict comes
once, later than the call, on the loop's thread; after a cancellation it does not come."""


class Method(Protocol):
    """Basic, JWT or forward auth, of a route."""

    name: str
    """the ``method`` label of ``gateway_auth_total``"""

    def check(self, request: Entering) -> Granted | Waiting:
        """Let a request in, or say how to wait for the answer. :raises Refused: its credentials do not suffice"""

    def close(self) -> None:
        """No request comes any more: let go of connections and the like."""
