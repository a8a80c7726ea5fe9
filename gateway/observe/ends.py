# cython: boundscheck=True, wraparound=True
# ^ numbers in a row that another process has damaged must not read beyond a tuple
"""Reports ended tunnels: a line in the access log and metrics, all from the tunnel's row.

Compiled by Cython if a C compiler is available (types in ``ends.pxd``), run as it is otherwise.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from gateway.observe.access_log import AccessLog
from gateway.observe.batch import Batch, Count
from gateway.observe.events import Events, RouteEvents
from gateway.observe.forms import Form, Value
from gateway.protocol import closing
from gateway.protocol.scanner_state import CLOSE_CODE, CLOSED, FRAMES, STATUS
from gateway.tunnels.table.layout import (
    BACKEND,
    BACKEND_SIDE,
    BYTES,
    CAUSES,
    CLIENT,
    CLOSE_CODE_SENT,
    ID,
    INITIATORS,
    KIND,
    LIMIT,
    OPENED_NS,
    ROUTE,
    SCANNER,
    SIDE_0,
    SIDE_CELLS,
    SIDES,
    TRUNCATED,
    WEBSOCKET,
)
from gateway.tunnels.table.texts import texts_of
from gateway.tunnels.upkeep.attribution import NEITHER, Attribution, attribute_row

if TYPE_CHECKING:
    from gateway.routing.registry import Registry
    from gateway.tunnels.table.table import Table

    Cells = memoryview[int]

NS = 1e9
MAX_KNOWN = 1024
DIRECTIONS = ("client_to_backend", "backend_to_client")
"""Indexed by the side that sent the bytes."""

_CLOSE_SEEN = {(False, False): None, (True, False): "client", (False, True): "backend", (True, True): "both"}
_TRUNCATED = (None, "client", "backend", "both")


def tunnel_id(row_id: int) -> str:
    """Return a tunnel's id as logs and the API show it."""
    return f"{row_id:x}"


class Ended(NamedTuple):
    """A tunnel that has ended: a copy of its row, since another tunnel may soon use the row."""

    cells: Cells
    texts: bytes
    at_ns: int
    at_unix: float
    backend: str
    """its address: the number may be another backend's by the time of the report"""


TUNNEL_END = Form(
    "tunnel_end",
    id="%s",
    request_id="%s",
    client="%s",
    route="%s",
    backend="%s",
    host="%s",
    path="%s",
    subprotocol="%s",
    initiator="%s",
    cause="%s",
    cut_side="%s",
    silence="%s",
    close_seen="%s",
    truncated="%s",
    client_close_code="%s",
    backend_close_code="%s",
    gateway_close_code="%s",
    duration="%.3f",
    client_idle="%.3f",
    backend_idle="%.3f",
    last_direction="%s",
    last_age="%.3f",
    client_queued="%d",
    backend_queued="%d",
    client_bytes="%d",
    backend_bytes="%d",
    client_frames="%d",
    backend_frames="%d",
)


class Ends:
    """Reports the tunnels of one worker that have ended."""

    def __init__(self, table: Table, registry: Registry, events: Events, batch: Batch) -> None:
        self._table = table
        self._registry = registry
        self._events = events
        self._batch = batch
        self._known: dict[tuple[str, int, int, int, int, int], tuple[RouteEvents, Count]] = {}

    def remember(self, row: int) -> Ended:
        """Copy what is to be reported while the row still holds it."""
        cells, texts = self._table.snapshot(row)
        _, backend = self._registry.backends[cells[BACKEND]]
        # The constructor of a NamedTuple is a function in Python.
        return tuple.__new__(Ended, (cells, texts, time.monotonic_ns(), time.time(), backend))

    def report(self, ended: Ended, log: AccessLog) -> None:
        """Count an ended tunnel and log it."""
        cells = ended.cells
        route = self._registry.routes[cells[ROUTE]]
        end = attribute_row(cells, ended.at_ns)
        seconds = (ended.at_ns - cells[OPENED_NS]) / NS
        client_code = self._close_code(cells, CLIENT)
        backend_code = self._close_code(cells, BACKEND_SIDE)
        like = (route, end.initiator, end.cause, cells[KIND], client_code, backend_code)
        known = self._known.get(like)
        if known is None:
            known = self._know(like)
        events, count = known
        batch = self._batch
        batch.count(count)
        batch.observe(events.tunnel_seconds, seconds)
        if end.cut != NEITHER:
            batch.observe(events.drop_idle(SIDES[end.cut]), end.silence_ns / NS)
        if log.enabled:
            log.write(
                TUNNEL_END, self._values(ended, cells, route, end, seconds, client_code, backend_code), ended.at_unix
            )

    def _know(self, like: tuple[str, int, int, int, int, int]) -> tuple[RouteEvents, Count]:
        """Find the metrics of a route, and what counts the ends of its tunnels that are alike.

        :param like: route, initiator, cause, kind, and the codes of both sides' Close frames
        """
        route, initiator, cause, kind, client_code, backend_code = like
        batch = self._batch
        events = self._events.route(route)
        counters = [events.closed(INITIATORS[initiator], CAUSES[cause])]
        if cause == LIMIT:
            counters.append(self._events.limited(route, "frame_size"))
        if kind == WEBSOCKET:
            counters.append(events.close_codes(SIDES[CLIENT], closing.label(client_code)))
            counters.append(events.close_codes(SIDES[BACKEND_SIDE], closing.label(backend_code)))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()  # peers that make up codes
        known = self._known[like] = events, partial(batch.count_in_each, counters)
        return known

    def _close_code(self, cells: Cells, side: int) -> int:
        """The code of a side's Close frame; 0 where it sent none."""
        scanner = SIDE_0 + side * SIDE_CELLS + SCANNER
        return cells[scanner + CLOSE_CODE] if cells[scanner + STATUS] == CLOSED else 0

    def _values(
        self,
        ended: Ended,
        cells: Cells,
        route: str,
        end: Attribution,
        seconds: float,
        client_code: int,
        backend_code: int,
    ) -> tuple[Value, ...]:
        """Return the values of the log line, in the order of ``TUNNEL_END``."""
        client, host, path, subprotocol, request_id = texts_of(ended.texts)
        of_client, of_backend = end.sides
        last = of_client if end.last_from == CLIENT else of_backend
        return (
            tunnel_id(cells[ID]),
            request_id,
            client,
            route,
            ended.backend,
            host,
            path,
            subprotocol or None,
            INITIATORS[end.initiator],
            CAUSES[end.cause],
            None if end.cut == NEITHER else SIDES[end.cut],
            None if end.cut == NEITHER else round(end.silence_ns / NS, 3),
            _CLOSE_SEEN[of_client.closed, of_backend.closed],
            _TRUNCATED[cells[TRUNCATED]],
            client_code or None,
            backend_code or None,
            cells[CLOSE_CODE_SENT] or None,
            seconds,
            of_client.idle_ns / NS,
            of_backend.idle_ns / NS,
            DIRECTIONS[end.last_from],
            last.idle_ns / NS,
            of_client.queued_bytes,
            of_backend.queued_bytes,
            cells[SIDE_0 + BYTES],
            cells[SIDE_0 + SIDE_CELLS + BYTES],
            cells[SIDE_0 + SCANNER + FRAMES],
            cells[SIDE_0 + SIDE_CELLS + SCANNER + FRAMES],
        )
