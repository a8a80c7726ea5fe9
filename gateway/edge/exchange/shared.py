"""What the exchanges of one worker share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.edge.forwarding import interim_to_client
from gateway.edge.known_answers import KnownAnswers

if TYPE_CHECKING:
    from gateway.edge.addresses import Addresses
    from gateway.edge.dialling import Dialler
    from gateway.edge.in_force import InForce
    from gateway.edge.pool import Pool
    from gateway.edge.wire import Wire
    from gateway.observe.requests import Requests
    from gateway.protocol.heads import ResponseHead
    from gateway.tunnels.relay.poller import Poller
    from gateway.tunnels.table.slice import Slice


class Exchanges:
    """Everything outside of itself that an exchange uses."""

    def __init__(
        self,
        poller: Poller,
        wire: Wire,
        config: InForce,
        dialler: Dialler,
        addresses: Addresses,
        pool: Pool,
        slice_: Slice,
        requests: Requests,
    ) -> None:
        self.poller = poller
        self.kernel = poller.kernel
        self.relay = poller.relay
        self.wire = wire
        self.config = config
        self.dialler = dialler
        self.backends = dialler.backends
        self.addresses = addresses
        self.pool = pool
        self.slice = slice_
        self.requests = requests
        self.known_answers = KnownAnswers()
        self.clock = time.monotonic_ns
        self.in_flight = 0
        self.most = slice_.table.rows_per_worker
        """requests in flight at a time"""

    @staticmethod
    def interim(head: ResponseHead) -> bytes:
        """An interim answer as the client is sent it."""
        return interim_to_client(head)
