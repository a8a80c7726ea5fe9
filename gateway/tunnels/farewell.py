"""Tunnels that nobody can carry on are ended as well as that can be done by somebody who does not relay."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable

from gateway.protocol.closing import SERVICE_RESTART
from gateway.protocol.frames import close_frame
from gateway.protocol.scanner_state import HEADER_LENGTH, OPEN, REMAINING, STATUS
from gateway.tunnels.adoption import Connections
from gateway.tunnels.layout import (
    BACKEND_SIDE,
    DIRTY,
    GATE,
    ID,
    KIND,
    LIVE,
    PASS,
    PHASE,
    PONG_DUE,
    RELAYING,
    RELEASED,
    ROW_CELLS,
    SCANNER,
    SHUT,
    SIDE_0,
    SIDE_CELLS,
    STATE,
    W_HIGH_ROWS,
    WEBSOCKET,
)
from gateway.tunnels.table import Table

READ_BYTES = 64 * 1024
MOST_READ = 64


def end_all(tunnels: Iterable[tuple[int, Connections]], table: Table | None) -> int:
    """End tunnels, with a Close frame (1012) to each side whose stream is at a frame boundary, and close their sockets.

    Nobody waits for an answer. Nobody may serve them meanwhile.

    :param table: tells where their streams are; None if that is not known
    :returns: how many sides were told
    """
    rows = {} if table is None else _rows(table)
    told = 0
    for tunnel, connections in tunnels:
        for side, fd in enumerate(connections):
            with socket.socket(fileno=fd) as sock, contextlib.suppress(OSError):
                sock.setblocking(False)
                if table is not None and tunnel in rows and _at_boundary(table, rows[tunnel], side):
                    mask = os.urandom(4) if side == BACKEND_SIDE else None
                    sock.send(close_frame(SERVICE_RESTART, "", mask))
                    told += 1
                sock.shutdown(socket.SHUT_WR)
                # With bytes unread, closing would reset the connection, and the Close frame be lost.
                for _ in range(MOST_READ):
                    if not sock.recv(READ_BYTES):
                        break
                sock.shutdown(socket.SHUT_RDWR)
    return told


def _rows(table: Table) -> dict[int, int]:
    cells = table.cells
    found = {}
    for slot in range(table.slots):
        first = table.first_row(slot)
        for row in range(first, first + cells[table.worker(slot) + W_HIGH_ROWS] * ROW_CELLS, ROW_CELLS):
            if cells[row + STATE] in (LIVE, RELEASED):
                found[cells[row + ID]] = row
    return found


def _at_boundary(table: Table, row: int, side: int) -> bool:
    """Whether a Close frame may be written to a side now (RFC 6455 5.4, 5.5.1)."""
    cells = table.cells
    here = row + SIDE_0 + side * SIDE_CELLS
    stream = row + SIDE_0 + (1 - side) * SIDE_CELLS + SCANNER
    return (
        cells[row + KIND] == WEBSOCKET
        and not cells[row + DIRTY]
        and cells[row + PHASE] == RELAYING
        and cells[here + GATE] in (PASS, PONG_DUE)
        and not cells[here + SHUT]
        and cells[stream + STATUS] == OPEN
        and not cells[stream + REMAINING]
        and not cells[stream + HEADER_LENGTH]
    )
