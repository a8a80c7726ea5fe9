"""The cells of ``layout.py`` by name, each with the default that replaces it if a table of another layout lacks it.

A test fails if a new cell is not listed here. Its default is what the cell would hold in a tunnel opened by an older
program, had that known the cell and nothing happened. A cell keeps its name exactly as long as its meaning and its
unit: names are all that programs of different layouts have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.protocol import scanner_state
from gateway.protocol.tls import state as tls_state
from gateway.tunnels.table import layout
from gateway.tunnels.table.description import Description, PackedTexts, Section
from gateway.tunnels.table.layout import GAP_BOUNDS_NS, NEVER, RTT_BOUNDS_NS, SECOND, SIDES

SLOTS_PER_WORKER = 2
"""One each for the old and the new worker during an upgrade."""

REQUIRED = None
"""In place of a default: a table that lacks this cell cannot be converted."""

Defaults = Mapping[str, int | None]

HEADER: Defaults = {
    "H_WORKERS": REQUIRED,
    "H_ROWS_PER_WORKER": REQUIRED,
    "H_STARTED_UNIX_NS": 0,
    "H_KEPT": 0,
    "H_SECRET_LOW": 0,  # a table that is converted to keeps its own
    "H_SECRET_HIGH": 0,
    "H_STATES": 0,
}
WORKER: Defaults = {
    "W_PID": REQUIRED,
    "W_STARTED_UNIX_NS": 0,
    "W_HEARTBEAT_NS": REQUIRED,
    "W_LAST_ID": REQUIRED,
    "W_HIGH_ROWS": REQUIRED,
    "W_CONFIG": 0,
    "W_READY": REQUIRED,
    "W_LOG_LINES_LOST": 0,
    "W_ADOPTED": 0,
}
BACKEND: Defaults = {"B_LIVE": REQUIRED, "B_CONNECT_NS": 0, "B_REQUESTS": 0, "B_IDLE": 0}
BACKEND_STATE: Defaults = {"S_HEALTH": 0, "S_EJECTED_NS": 0, "S_RETURNED_NS": 0, "S_SINCE_UNIX_NS": 0}
"""Of a backend over all slots. The supervisor finds out again what a table does not say."""

TOTALS: Defaults = {
    "T_FRAMES": 0,
    "T_BYTES": 0,
    "T_VIOLATIONS": 0,
    "T_PINGS": 0,
    "T_PONGS": 0,
    "T_TIMEOUTS": 0,
    "T_INTERVAL_NS": 0,
    "T_CUTOFF_NS": 0,
    "T_GAPS_SUM_NS": 0,
    "T_GAPS": 0,
    "T_RTT_SUM_NS": 0,
    "T_RTTS": 0,
}
"""Of each direction. Counters that were not kept start at 0."""

ROUTE_TOTALS: Defaults = {"T_REQUESTS": 0, "T_FAULTS": 0}
"""Of both directions together."""

ROW: Defaults = {
    "STATE": REQUIRED,
    "ID": REQUIRED,
    "ROUTE": REQUIRED,
    "BACKEND": REQUIRED,
    "TOTALS": 0,  # computed: see conversion.py
    "DIRTY": REQUIRED,
    "PHASE": REQUIRED,
    "DEADLINE_NS": 0,  # recomputed by the worker that resumes the tunnel
    "OPENED_NS": REQUIRED,
    "OPENED_UNIX_NS": REQUIRED,
    "KIND": REQUIRED,
    "CLOSING_NS": 0,
    "WRITE_STALL_NS": NEVER,
    "CLOSE_NS": 10 * SECOND,
    "IDLE_NS": NEVER,
    "LIFETIME_NS": NEVER,
    "INITIATOR": -1,
    "CAUSE": -1,
    "CLOSE_CODE_SENT": 0,
    "END_SIDE": -1,
    "ON_LOSS_CODE": 0,
    "PACED_NS": 0,
    "PACED_CODE": 0,
    "TRUNCATED": 0,
    "EXPIRES_NS": NEVER,
    "EXPIRY_CODE": 0,
    "HASH_KEY": 0,
    "LONG_TEXTS": 0,  # computed: see conversion.py
}
SIDE: Defaults = {
    "FD": -1,  # rewritten, as is INTEREST
    "PENDING": REQUIRED,
    "GATE": REQUIRED,
    "LAST_NS": REQUIRED,
    "BYTES": 0,
    "INTEREST": 0,
    "STALLED_NS": 0,
    "ENDED": REQUIRED,
    "TLS": 0,  # computed: see conversion.py
    "SHUT": REQUIRED,
    "PING_AFTER_NS": NEVER,
    "PONG_TIMEOUT_NS": NEVER,
    "NETWORK": 0,
    "PINGS_SENT": 0,
    "PINGS_ANSWERED": 0,
    "PING_TAG": 0,
    "PINGED_NS": 0,
    "WROTE_NS": 0,
    "PONG_NS": 0,
    "RTT_NS": 0,
    "SILENCE_NS": 0,
    "HELD": 0,
    "HELD_LOW": 0,
    "HELD_HIGH": 0,
    "END_IDLE_NS": 0,
    "END_QUIET_NS": 0,
    "END_QUEUED": 0,
    "TALKS": 0,
    "OWN_CLOSE_CODE": 0,
    "FRAME_LIMIT": 0,
    "MESSAGE_NS": 0,
    "MESSAGE_BURST_NS": 0,
    "NEXT_MESSAGE_NS": 0,
}
SCANNER: Defaults = {
    "STATUS": REQUIRED,
    "REST": 0,  # the next scan recomputes it
    "REMAINING": REQUIRED,
    "HEADER_LENGTH": REQUIRED,
    "MASKING": REQUIRED,
    "MESSAGE": REQUIRED,
    "FRAMES": 0,
    "DATA_AT": REQUIRED,
    "OPCODE": REQUIRED,
    "HEADER_LOW": REQUIRED,
    "HEADER_HIGH": REQUIRED,
    "MASK": REQUIRED,
    "CONTROL_READ": REQUIRED,
    "DIGEST": REQUIRED,
    "CLOSE_CODE": 0,
    "PING_AT": 0,
    "PING_ID": 0,
    "PONG_AT": 0,
    "PONG_ID": 0,
    "PEER": 0,  # computed: see conversion.py
}

SESSION: Defaults = {
    **dict.fromkeys(tls_state.FIELDS, REQUIRED),
    "EMPTY_RECORDS": 0,
    "SENT_NS": 0,
    "BURST_BYTES": 0,
}
"""Of each side. A table without sessions has no TLS connections."""

ESSENTIAL = frozenset(
    {
        *("STATE", "ID", "ROUTE", "BACKEND", "DIRTY", "PHASE", "KIND", "PENDING", "GATE", "ENDED", "SHUT"),
        *("PINGS_SENT", "PINGS_ANSWERED", "PING_TAG", "HELD", "HELD_LOW", "HELD_HIGH"),
        *("STATUS", "REMAINING", "HEADER_LENGTH", "MASKING", "MESSAGE", "OPCODE", "HEADER_LOW", "HEADER_HIGH"),
        *("MASK", "CONTROL_READ", "DIGEST"),
        *("FRAME_LIMIT", "MESSAGE_NS", "EXPIRY_CODE"),
        "TLS",
        *(name for name, default in SESSION.items() if default is REQUIRED),
    }
)
"""Cells that the byte streams depend on: a program that ignored one could lose bytes, or write some inside a frame. And
cells with limits that the tunnel was let in under. A program that does not know one must not resume a tunnel in which
it is not 0. Other unknown cells are dropped."""

VALUES: Mapping[str, Mapping[str, int]] = {
    "STATE": {name: getattr(layout, name) for name in ("FREE", "RESERVED", "LIVE", "RELEASED", "COUNTED")},
    "PHASE": {name: getattr(layout, name) for name in ("RELAYING", "CLOSING", "CUT")},
    "KIND": {name: getattr(layout, name) for name in ("WEBSOCKET", "OPAQUE")},
    "GATE": {name: getattr(layout, name) for name in ("PASS", "AT_BOUNDARY", "DISCARD", "PONG_DUE", "LIMITED")},
    "INITIATOR": {name: number for number, name in enumerate(("", *layout.INITIATORS), -1)},
    "END_SIDE": {name: number for number, name in enumerate(("", *SIDES), -1)},
    "CAUSE": {name: number for number, name in enumerate(("", *layout.CAUSES), -1)},
    "STATUS": {name: getattr(scanner_state, name) for name in ("OPEN", "CLOSED", "BROKEN")},
    "MESSAGE": {"": 0, "PLAIN": scanner_state.PLAIN, "EXTENDED": scanner_state.EXTENDED},
    "VERSION": {"": 0, **{name: getattr(tls_state, name) for name in ("TLS12", "TLS13")}},
    "SUITE": {
        "": 0,
        **{name: getattr(tls_state, name) for name in ("AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305")},
    },
    "ROLE": {name: getattr(tls_state, name) for name in ("ACCEPTED", "DIALLED")},
}
"""Names of the values of all cells with named values; the empty name stands for none."""


def describe(workers: int, rows_per_worker: int) -> Description:
    """The description of a table of this layout. :param rows_per_worker: of each slot"""
    slots = SLOTS_PER_WORKER * workers
    sides = [layout.SIDE_0 + side * layout.SIDE_CELLS for side in range(len(SIDES))]
    row = _cells(ROW)
    for name, at in zip(SIDES, sides, strict=True):
        row |= _cells(SIDE, name, at) | _cells(SCANNER, name, at + layout.SCANNER)
    totals = _cells(ROUTE_TOTALS)
    for side, name in enumerate(SIDES):
        totals |= _cells(TOTALS, name, side * layout.TOTAL_CELLS)
    text_at = layout.TEXT_CELL * layout.CELL_BYTES
    first, size = next(iter(layout.TEXTS.items()))
    header = Section(0, layout.HEADER_CELLS, 1, _cells(HEADER))
    worker = Section(layout.HEADER_CELLS, layout.WORKER_CELLS, 1, _cells(WORKER))
    backend = Section(worker.end(slots), layout.BACKEND_CELLS, layout.MAX_BACKENDS, _cells(BACKEND))
    of_routes = Section(backend.end(slots), layout.ROUTE_CELLS, layout.MAX_ROUTES, totals)
    states = Section(of_routes.end(slots), layout.STATE_CELLS, layout.MAX_BACKENDS, _cells(BACKEND_STATE))
    rows = Section(states.end(1), layout.ROW_CELLS, rows_per_worker, row)
    sessions = Section(
        _next_page(rows.end(slots)),
        layout.SESSIONS_CELLS,
        rows_per_worker,
        {
            name: place
            for side, called in enumerate(SIDES)
            for name, place in _cells(SESSION, called, side * tls_state.SESSION_CELLS).items()
        },
    )
    long_texts = Section(_next_page(sessions.end(slots)), layout.LONG_TEXTS_CELLS, rows_per_worker, {})
    bounds = {"T_GAPS": GAP_BOUNDS_NS, "T_RTTS": RTT_BOUNDS_NS}
    return Description(
        version=layout.VERSION,
        workers=workers,
        slots=slots,
        header=header,
        worker=worker,
        backend=backend,
        totals=of_routes,
        states=states,
        row=rows,
        session=sessions,
        texts={first: (text_at, size)},  # for programs that know no packed texts
        packed=PackedTexts(text_at, layout.TEXT_BYTES, tuple(layout.TEXTS.items())),
        long_texts=long_texts,
        values=VALUES,
        bounds=bounds,
        essential=ESSENTIAL,
    )


def _next_page(cell: int) -> int:
    return -(-cell // layout.PAGE_CELLS) * layout.PAGE_CELLS


def defaults(section: str) -> dict[str, int | None]:
    """Defaults by the names that :func:`describe` gives to cells. :param section: an attribute of ``Description``"""
    if section == "totals":
        return {**ROUTE_TOTALS, **_of_sides(TOTALS)}
    if section == "row":
        return {**ROW, **_of_sides(SIDE), **_of_sides(SCANNER)}
    if section == "session":
        return _of_sides(SESSION)
    return dict({"header": HEADER, "worker": WORKER, "backend": BACKEND, "states": BACKEND_STATE}[section])


def _of_sides(cells: Defaults) -> dict[str, int | None]:
    return {f"{side} {name}": default for side in SIDES for name, default in cells.items()}


_SIZES = {
    "T_FRAMES": scanner_state.OPCODES,
    "T_GAPS": len(GAP_BOUNDS_NS) + 1,
    "T_RTTS": len(RTT_BOUNDS_NS) + 1,
    **tls_state.SIZES,
}


def _cells(names: Iterable[str], side: str = "", at: int = 0) -> dict[str, tuple[int, int]]:
    """Where cells are. :param at: where their numbers in ``layout.py`` count from"""
    prefix = f"{side} " if side else ""
    return {prefix + name: (at + _number(name), _SIZES.get(name, 1)) for name in names}


def _number(name: str) -> int:
    number: int = getattr(scanner_state if name in SCANNER else tls_state if name in SESSION else layout, name)
    return number
