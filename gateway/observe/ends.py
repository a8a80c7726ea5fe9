"""What is said of a tunnel that has ended: its line in the access log and its metrics, all from its row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gateway.observe.access_log import AccessLog, Fields
from gateway.observe.batch import Count
from gateway.observe.events import Events
from gateway.protocol import closing
from gateway.protocol.scanner_state import CLOSE_CODE, CLOSED, FRAMES, STATUS
from gateway.tunnels.attribution import NEITHER, Attribution, attribute_row
from gateway.tunnels.layout import (
    BACKEND,
    BYTES,
    CAUSES,
    CLOSE_CODE_SENT,
    ID,
    INITIATORS,
    KIND,
    OPENED_NS,
    ROUTE,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    WEBSOCKET,
)
from gateway.tunnels.table import texts_of

if TYPE_CHECKING:
    from gateway.routing.registry import Registry
    from gateway.tunnels.table import Table

NS = 1e9
DIRECTIONS = ("client_to_backend", "backend_to_client")
"""By the side that the bytes come from."""

_CLOSE_SEEN = {(False, False): None, (True, False): "client", (False, True): "backend", (True, True): "both"}


def tunnel_id(row_id: int) -> str:
    """How people see the id of a tunnel."""
    return f"{row_id:x}"


class Ended(NamedTuple):
    """A tunnel that has ended: a copy of its row, which is another tunnel's soon."""

    cells: Sequence[int]
    texts: bytes
    at_ns: int
    at_unix: float


class Ends:
    """Tells of tunnels that have ended."""

    def __init__(self, table: Table, registry: Registry, events: Events, count: Callable[[Count], None]) -> None:
        """:param count: has a counter count one event, as :meth:`Batch.count` does"""
        self._table = table
        self._registry = registry
        self._events = events
        self._count = count

    def remember(self, row: int) -> Ended:
        """Take down what there is to tell, while the row still holds it."""
        cells, texts = self._table.snapshot(row)
        return Ended(cells, texts, time.monotonic_ns(), time.time())

    def tell(self, ended: Ended, log: AccessLog) -> None:
        """Count an ended tunnel and log it."""
        cells = ended.cells
        route = self._registry.routes[cells[ROUTE]]
        end = attribute_row(cells, ended.at_ns)
        seconds = (ended.at_ns - cells[OPENED_NS]) / NS
        events = self._events.route(route)
        self._count(events.closed(INITIATORS[end.initiator], CAUSES[end.cause]))
        if end.cut != NEITHER:
            events.drop_idle(SIDES[end.cut]).observe(end.silence_ns / NS)
        events.tunnel_seconds.observe(seconds)
        codes = []
        for side, name in enumerate(SIDES):
            scanner = SIDE_0 + side * SIDE_CELLS + SCANNER
            code = cells[scanner + CLOSE_CODE] if cells[scanner + STATUS] == CLOSED else 0
            codes.append(code)
            if cells[KIND] == WEBSOCKET:
                self._count(events.close_codes(name, closing.label(code)))
        if log.enabled:
            log.write(self._line(ended, route, end, seconds, codes), ended.at_unix)

    def _line(self, ended: Ended, route: str, end: Attribution, seconds: float, codes: list[int]) -> Fields:
        cells = ended.cells
        texts = texts_of(ended.texts)
        client = SIDE_0
        backend = client + SIDE_CELLS
        of_client, of_backend = end.sides
        return {
            "event": "tunnel_end",
            "id": tunnel_id(cells[ID]),
            "request_id": texts["request_id"],
            "client": texts["client"],
            "route": route,
            "backend": self._registry.backends[cells[BACKEND]][1],
            "host": texts["host"],
            "path": texts["path"],
            "subprotocol": texts["subprotocol"] or None,
            "initiator": INITIATORS[end.initiator],
            "cause": CAUSES[end.cause],
            "cut_side": None if end.cut == NEITHER else SIDES[end.cut],
            "silence": None if end.cut == NEITHER else round(end.silence_ns / NS, 3),
            "close_seen": _CLOSE_SEEN[of_client.closed, of_backend.closed],
            "client_close_code": codes[0] or None,
            "backend_close_code": codes[1] or None,
            "gateway_close_code": cells[CLOSE_CODE_SENT] or None,
            "duration": round(seconds, 3),
            "client_idle": round(of_client.idle_ns / NS, 3),
            "backend_idle": round(of_backend.idle_ns / NS, 3),
            "last_direction": DIRECTIONS[end.last_from],
            "last_age": round(end.sides[end.last_from].idle_ns / NS, 3),
            "client_queued": of_client.queued_bytes,
            "backend_queued": of_backend.queued_bytes,
            "client_bytes": cells[client + BYTES],
            "backend_bytes": cells[backend + BYTES],
            "client_frames": cells[client + SCANNER + FRAMES],
            "backend_frames": cells[backend + SCANNER + FRAMES],
        }
