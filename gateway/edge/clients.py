"""What the clients' connections of one worker share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.edge.facts import KnownFields
from gateway.edge.refusals import Refusals
from gateway.protocol.known_heads import KnownHeads

if TYPE_CHECKING:
    from gateway.edge.deadlines import Deadlines
    from gateway.edge.exchange.shared import Exchanges
    from gateway.edge.in_force import InForce
    from gateway.edge.passage import Movable
    from gateway.edge.upgrade import Upgrades
    from gateway.edge.wire import Wire
    from gateway.observe.handshakes import Handshakes
    from gateway.observe.requests import Requests
    from gateway.tunnels.relay.poller import Poller


class Clients:
    """Everything outside of itself that a client's connection uses."""

    def __init__(
        self,
        poller: Poller,
        wire: Wire,
        config: InForce,
        deadlines: Deadlines,
        exchanges: Exchanges,
        upgrades: Upgrades,
        handshakes: Handshakes,
        requests: Requests,
    ) -> None:
        self.poller = poller
        self.kernel = poller.kernel
        self.relay = poller.relay
        self.wire = wire
        self.config = config
        self.deadlines = deadlines
        self.exchanges = exchanges
        self.upgrades = upgrades
        self.handshakes = handshakes
        self.refusals = Refusals(handshakes, requests)
        self.known_heads = KnownHeads()
        self.known_fields = KnownFields()
        self.on_rest: Callable[[Movable], None] | None = None
        """called with each connection that waits for its next request, where another process is to serve them"""
