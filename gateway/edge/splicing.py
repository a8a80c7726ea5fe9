"""What a tunnel has from its handshake: its row, and a limit to how long its peers may acknowledge nothing.

Compiled by Cython if a C compiler is available (types in ``splicing.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING

from gateway.edge.networks import network_of
from gateway.edge.request import Request
from gateway.protocol.websocket import WEBSOCKET
from gateway.tunnels.table.layout import (
    BACKEND,
    CLIENT,
    CLOSE_NS,
    EXPIRES_NS,
    EXPIRY_CODE,
    FRAME_LIMIT,
    HASH_KEY,
    IDLE_NS,
    KIND,
    LIFETIME_NS,
    MESSAGE_BURST_NS,
    MESSAGE_NS,
    NEVER,
    ON_LOSS_CODE,
    OPAQUE,
    OPENED_UNIX_NS,
    PING_AFTER_NS,
    PONG_TIMEOUT_NS,
    SIDE_0,
    SIDE_CELLS,
    TEXT_CELL,
    WRITE_STALL_NS,
)
from gateway.tunnels.table.layout import WEBSOCKET as WEBSOCKET_KIND
from gateway.tunnels.table.slice import RESERVED_ROW

if TYPE_CHECKING:
    from gateway.routing.limits import Limits
    from gateway.routing.routes import Route
    from gateway.tunnels.learning.intervals import Intervals
    from gateway.tunnels.relay.kernel import Kernel
    from gateway.tunnels.table.slice import Slice

STALL_SLACK_MS = 2000
MAX_USER_TIMEOUT_MS = 2**31 - 1


def give_up_unacknowledged(kernel: Kernel, stall_ns: int, client_fd: int, backend_fd: int) -> None:
    """Have the kernel end a connection whose peer acknowledges nothing, a little after it would be given up for taking
    nothing: what fits into the socket's buffer is taken, though nobody may be there (RFC 5482).

    :param stall_ns: how long it may take nothing
    """
    if stall_ns == NEVER:
        return
    milliseconds = min(stall_ns // 1_000_000 + STALL_SLACK_MS, MAX_USER_TIMEOUT_MS)
    kernel.limit_unacknowledged(client_fd, milliseconds)
    kernel.limit_unacknowledged(backend_fd, milliseconds)


class Prepared:
    """What is the same in the rows of all tunnels of a route."""

    def __init__(self, route: Route, cells: memoryview[int], adaptive: tuple[int, ...]) -> None:
        """
        :param cells: of a reserved row, from ``KIND`` to its texts
        :param adaptive: sides with an interval that is learned
        """
        self.route = route
        self.cells = cells
        self.adaptive = adaptive


class Rows:
    """Fills the rows of a worker's tunnels."""

    def __init__(self, slice_: Slice, intervals: Intervals) -> None:
        self._slice = slice_
        self._intervals = intervals
        self._prepared: dict[int, Prepared] = {}
        """by the number of a route, doubled, and one more if it is for WebSocket"""

    def fill(
        self,
        row: int,
        request: Request,
        subprotocol: bytes,
        now_ns: int,
        expires_ns: int = NEVER,
        expiry_code: int = 0,
        hash_key: int = 0,
    ) -> None:
        """Write into a row that was just reserved what the request and its route say of a tunnel.

        :param subprotocol: that the backend has chosen
        :param now_ns: ``CLOCK_MONOTONIC``
        :param expires_ns: when the client's credentials expire, and the tunnel with them (``CLOCK_MONOTONIC``)
        :param expiry_code: close code for the client then; 0 for 1012
        :param hash_key: what ``consistent_hash`` went by; 0 for nothing
        """
        cells = self._slice.own
        route = request.route
        is_websocket = request.upgrade == WEBSOCKET
        prepared = self._prepared.get(2 * route.number + is_websocket)
        if prepared is None or prepared.route is not route:
            prepared = self._prepare(route, is_websocket)
        cells[row + KIND : row + TEXT_CELL] = prepared.cells
        cells[row + OPENED_UNIX_NS] = time.time_ns()
        cells[row + EXPIRES_NS] = expires_ns
        cells[row + EXPIRY_CODE] = expiry_code
        cells[row + HASH_KEY] = hash_key
        cells[row + ON_LOSS_CODE] = request.upstream.on_loss_code
        for side in prepared.adaptive:
            network = network_of(request.peer) if side == CLIENT else cells[row + BACKEND] + 1
            self._intervals.begin(row, side, network, now_ns)
        client, host, path, request_id = request.client, request.host, request.path, request.request_id
        self._slice.write_texts(
            row, client.encode("latin-1"), host.encode(), path.encode(), subprotocol, request_id.encode()
        )

    def _prepare(self, route: Route, is_websocket: bool) -> Prepared:
        """Prepare what all tunnels of a route have in common, until a configuration has another route of its number."""
        cells = memoryview(array("q", RESERVED_ROW))
        limits = route.limits
        cells[KIND] = WEBSOCKET_KIND if is_websocket else OPAQUE
        cells[WRITE_STALL_NS] = limits.write_stall_ns
        cells[CLOSE_NS] = limits.close_ns
        cells[IDLE_NS] = limits.idle_ns
        cells[LIFETIME_NS] = limits.max_lifetime_ns
        adaptive = []
        if is_websocket:
            _limit(cells, limits)
            for side, keepalive in enumerate(route.keepalive):
                at = SIDE_0 + side * SIDE_CELLS
                cells[at + PING_AFTER_NS] = keepalive.ping_after_ns
                cells[at + PONG_TIMEOUT_NS] = keepalive.pong_timeout_ns
                if keepalive.adaptive:
                    adaptive.append(side)
        prepared = Prepared(route, cells[KIND:TEXT_CELL], tuple(adaptive))
        self._prepared[2 * route.number + is_websocket] = prepared
        return prepared


def _limit(cells: memoryview[int], limits: Limits) -> None:
    """Write what a route allows in a WebSocket tunnel. Where messages are counted, frames must be looked at, too."""
    cells[SIDE_0 + FRAME_LIMIT] = limits.frame_bytes or (NEVER if limits.message_ns else 0)
    cells[SIDE_0 + SIDE_CELLS + FRAME_LIMIT] = limits.frame_bytes
    cells[SIDE_0 + MESSAGE_NS] = limits.message_ns
    cells[SIDE_0 + MESSAGE_BURST_NS] = max(limits.message_burst_ns, limits.message_ns)
