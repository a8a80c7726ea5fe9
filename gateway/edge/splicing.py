"""What a tunnel has from its handshake: its row, and a limit to how long its peers may acknowledge nothing."""

from __future__ import annotations

import time
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
    WRITE_STALL_NS,
)
from gateway.tunnels.table.layout import WEBSOCKET as WEBSOCKET_KIND

if TYPE_CHECKING:
    from gateway.routing.limits import Limits
    from gateway.tunnels.learning.intervals import Intervals
    from gateway.tunnels.relay.kernel import Kernel
    from gateway.tunnels.table.slice import Slice

STALL_SLACK_MS = 2000
MAX_USER_TIMEOUT_MS = 2**31 - 1


def give_up_unacknowledged(kernel: Kernel, request: Request, *connections: int) -> None:
    """Have the kernel end a connection whose peer acknowledges nothing, a little after it would be given up for taking
    nothing: what fits into the socket's buffer is taken, though nobody may be there (RFC 5482)."""
    stall_ns = request.route.limits.write_stall_ns
    if stall_ns == NEVER:
        return
    milliseconds = min(stall_ns // 1_000_000 + STALL_SLACK_MS, MAX_USER_TIMEOUT_MS)
    for fd in connections:
        kernel.limit_unacknowledged(fd, milliseconds)


def fill_row(
    slice_: Slice,
    intervals: Intervals,
    row: int,
    request: Request,
    subprotocol: bytes,
    now_ns: int,
    *,
    expires_ns: int = NEVER,
    expiry_code: int = 0,
    hash_key: int = 0,
) -> None:
    """Write into its row what the request and its route say of a tunnel.

    :param subprotocol: that the backend has chosen
    :param now_ns: ``CLOCK_MONOTONIC``
    :param expires_ns: when the client's credentials expire, and the tunnel with them (``CLOCK_MONOTONIC``)
    :param expiry_code: close code for the client then; 0 for 1012
    :param hash_key: what ``consistent_hash`` went by; 0 for nothing
    """
    cells = slice_.cells
    route = request.route
    limits = route.limits
    is_websocket = request.upgrade == WEBSOCKET
    cells[row + KIND] = WEBSOCKET_KIND if is_websocket else OPAQUE
    cells[row + OPENED_UNIX_NS] = time.time_ns()
    cells[row + WRITE_STALL_NS] = limits.write_stall_ns
    cells[row + CLOSE_NS] = limits.close_ns
    cells[row + IDLE_NS] = limits.idle_ns
    cells[row + LIFETIME_NS] = limits.max_lifetime_ns
    cells[row + EXPIRES_NS] = expires_ns
    cells[row + EXPIRY_CODE] = expiry_code
    cells[row + HASH_KEY] = hash_key
    if is_websocket:
        _limit(cells, row, limits)
        for side, keepalive in enumerate(route.keepalive):
            at = row + SIDE_0 + side * SIDE_CELLS
            cells[at + PING_AFTER_NS] = keepalive.ping_after_ns
            cells[at + PONG_TIMEOUT_NS] = keepalive.pong_timeout_ns
            if keepalive.adaptive:
                network = network_of(request.peer) if side == CLIENT else cells[row + BACKEND] + 1
                intervals.begin(row, side, network, now_ns)
    cells[row + ON_LOSS_CODE] = request.upstream.on_loss_code
    slice_.write_texts(
        row,
        {
            "client": request.client.encode("latin-1"),
            "host": request.host.encode(),
            "path": request.path.encode(),
            "subprotocol": subprotocol,
            "request_id": request.request_id.encode(),
        },
    )


def _limit(cells: memoryview[int], row: int, limits: Limits) -> None:
    """Write what a route allows in a WebSocket tunnel. Where messages are counted, frames must be looked at, too."""
    client = row + SIDE_0
    cells[client + FRAME_LIMIT] = limits.frame_bytes or (NEVER if limits.message_ns else 0)
    cells[client + SIDE_CELLS + FRAME_LIMIT] = limits.frame_bytes
    cells[client + MESSAGE_NS] = limits.message_ns
    cells[client + MESSAGE_BURST_NS] = max(limits.message_burst_ns, limits.message_ns)
