"""What is said of a tunnel that has ended: its line in the access log and its metrics, all from its row."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.observe.access_log import AccessLog, Fields
from gateway.observe.events import Events
from gateway.protocol import closing
from gateway.protocol.scanner_state import CLOSE_CODE, CLOSED, FRAMES, STATUS
from gateway.tunnels.layout import (
    BACKEND,
    BYTES,
    CAUSE,
    CAUSES,
    CLOSE_CODE_SENT,
    ID,
    INITIATOR,
    INITIATORS,
    KIND,
    LAST_NS,
    OPENED_NS,
    ROUTE,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    WEBSOCKET,
)

if TYPE_CHECKING:
    from gateway.routing.registry import Registry
    from gateway.tunnels.table import Table

NS = 1e9


def tunnel_id(row_id: int) -> str:
    """How people see the id of a tunnel."""
    return f"{row_id:x}"


class Ends:
    """Tells of tunnels that have ended."""

    def __init__(self, table: Table, registry: Registry, events: Events) -> None:
        self._table = table
        self._registry = registry
        self._events = events

    def tell(self, row: int, log: AccessLog) -> None:
        """Count an ended tunnel and log it. The row still holds everything."""
        cells = self._table.cells
        now = time.monotonic_ns()
        route = self._registry.routes[cells[row + ROUTE]]
        initiator = INITIATORS[cells[row + INITIATOR]]
        cause = CAUSES[cells[row + CAUSE]]
        seconds = (now - cells[row + OPENED_NS]) / NS
        events = self._events.route(route)
        events.closed(initiator, cause).inc()
        events.tunnel_seconds.observe(seconds)
        codes = []
        for side, name in enumerate(SIDES):
            scanner = row + SIDE_0 + side * SIDE_CELLS + SCANNER
            code = cells[scanner + CLOSE_CODE] if cells[scanner + STATUS] == CLOSED else 0
            codes.append(code)
            if cells[row + KIND] == WEBSOCKET:
                events.close_codes(name, closing.label(code)).inc()
        if log.enabled:
            log.write(self._line(row, route, initiator, cause, seconds, codes, now))

    def _line(
        self, row: int, route: str, initiator: str, cause: str, seconds: float, codes: list[int], now: int
    ) -> Fields:
        cells = self._table.cells
        texts = self._table.texts(row)
        client = row + SIDE_0
        backend = client + SIDE_CELLS
        return {
            "event": "tunnel_end",
            "id": tunnel_id(cells[row + ID]),
            "request_id": texts["request_id"],
            "client": texts["client"],
            "route": route,
            "backend": self._registry.backends[cells[row + BACKEND]][1],
            "host": texts["host"],
            "path": texts["path"],
            "subprotocol": texts["subprotocol"] or None,
            "initiator": initiator,
            "cause": cause,
            "client_close_code": codes[0] or None,
            "backend_close_code": codes[1] or None,
            "gateway_close_code": cells[row + CLOSE_CODE_SENT] or None,
            "duration": round(seconds, 3),
            "client_idle": round((now - cells[client + LAST_NS]) / NS, 3),
            "backend_idle": round((now - cells[backend + LAST_NS]) / NS, 3),
            "client_bytes": cells[client + BYTES],
            "backend_bytes": cells[backend + BYTES],
            "client_frames": cells[client + SCANNER + FRAMES],
            "backend_frames": cells[backend + SCANNER + FRAMES],
        }
