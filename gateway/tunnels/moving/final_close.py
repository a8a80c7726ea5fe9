"""Final close: ends tunnels that no worker can resume, with a Close frame where one fits (RFC 6455 5.4).

A side that uses TLS gets its Close frame, and close_notify, sealed with the session of its row.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from array import array
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from gateway.protocol.closing import SERVICE_RESTART
from gateway.protocol.frames import close_frame
from gateway.protocol.tls.content import RECORDS_BY_KEY
from gateway.protocol.tls.records import Records
from gateway.protocol.tls.state import OUT_CLOSED, OUT_SEQ, SESSION_CELLS, VERSION
from gateway.tunnels.moving.adoption import Connections
from gateway.tunnels.table.conversion import CannotConvert, Conversion, Foreign
from gateway.tunnels.table.fields import describe
from gateway.tunnels.table.layout import BACKEND_SIDE, CELL_BYTES, SIDES

READ_BYTES = 64 * 1024
MOST_READ = 64
Wanted = tuple[str, tuple[int, ...]]
"""A cell and the values that are required of it."""


def end_all(tunnels: Iterable[tuple[int, Connections]], tables: Collection[int]) -> int:
    """End tunnels: send Close 1012 to each side whose stream is at a frame boundary, then close the sockets.

    Answers are not waited for. No worker may serve the tunnels meanwhile.

    :param tunnels: ids and connections; the connections are closed
    :param tables: descriptors of the tables, of any layout, with the rows of these tunnels
    :returns: how many sides were sent a Close frame
    """
    boundaries = _boundaries(tables)
    sealing = _Sealing()
    sent = 0
    for tunnel, connections in tunnels:
        for side, fd in enumerate(connections):
            try:
                sock = socket.socket(fileno=fd)
            except OSError:  # not a socket; the other tunnels still are
                with contextlib.suppress(OSError):
                    os.close(fd)
                continue
            with sock, contextlib.suppress(OSError):
                sock.setblocking(False)
                if tunnel in boundaries and (boundary := boundaries[tunnel][side]).fits:
                    mask = os.urandom(4) if side == BACKEND_SIDE else None
                    data = close_frame(SERVICE_RESTART, "", mask)
                    if boundary.session is not None:
                        sock.send(sealing.seal(boundary.session, data))
                        sent += 1
                    elif not boundary.is_tls:
                        sock.send(data)
                        sent += 1
                sock.shutdown(socket.SHUT_WR)
                # Closing with unread bytes would reset the connection, and the Close frame could be lost.
                for _ in range(MOST_READ):
                    if not sock.recv(READ_BYTES):
                        break
                sock.shutdown(socket.SHUT_RDWR)
    return sent


class _Session(NamedTuple):
    """What is needed to seal the last records of a side."""

    cells: array[int]
    """in the layout of this program"""
    fd: int
    """of the table"""
    places: tuple[int, int]
    """where its ``OUT_SEQ`` and its ``OUT_CLOSED`` are, in bytes"""


class _Boundary(NamedTuple):
    """What can be written to a side."""

    fits: bool
    """whether a Close frame may be written to it now"""
    is_tls: bool = False
    session: _Session | None = None
    """of a side that uses TLS, if it is known"""

    def and_also(self, other: _Boundary) -> _Boundary:
        """Both must agree; only one of two rows may have the keys, since only one has the right sequence number."""
        is_known_twice = self.session is not None and other.session is not None
        fits = self.fits and other.fits and not is_known_twice
        return _Boundary(fits, self.is_tls or other.is_tls, self.session or other.session)


class _Sealing:
    """Seals the last records of connections."""

    def __init__(self) -> None:
        self._wire = bytearray(READ_BYTES)
        self._records = Records(self._wire)

    def seal(self, session: _Session, data: bytes) -> bytes:
        """Seal ``data`` and close_notify. The table says so before this returns: no nonce is used again if this process
        dies, and another one closes the tunnels.

        :raises OSError: the table cannot be written
        """
        cells = memoryview(session.cells)
        wire = self._wire[: self._records.seal(cells, 0, bytearray(data), 0, len(data), time.monotonic_ns())]
        wire += self._wire[: self._records.close(cells, 0)]
        for place, cell in zip(session.places, (OUT_SEQ, OUT_CLOSED), strict=True):
            os.pwrite(session.fd, cells[cell].to_bytes(CELL_BYTES, sys.byteorder, signed=True), place)
        return bytes(wire)


class _Rows:
    """Frame boundaries of the streams in a table of any layout."""

    def __init__(self, fd: int) -> None:
        """:raises ValueError: this is no table, or it lacks the cells for that"""
        self._fd = fd
        self._foreign = foreign = Foreign(fd)
        self._to_own: Conversion | None = None
        try:
            self._places = {name: at for name, (at, _) in foreign.description.row.names.items()}
            values = foreign.description.values
            self._is_whole: list[Wanted] = [
                ("KIND", (values["KIND"]["WEBSOCKET"],)),
                ("PHASE", (values["PHASE"]["RELAYING"],)),
            ]
            self._is_whole.append(("DIRTY", (0,)))
            status = values["STATUS"]["OPEN"]
            gates = (values["GATE"]["PASS"], values["GATE"]["PONG_DUE"], values["GATE"].get("LIMITED", -1))
            self._sides: list[list[Wanted]] = []
            for side, other in zip(SIDES, reversed(SIDES), strict=True):
                at_boundary: list[Wanted] = [
                    (f"{side} GATE", gates),
                    (f"{side} SHUT", (0,)),
                    (f"{other} STATUS", (status,)),
                ]
                at_boundary += [(f"{other} {name}", (0,)) for name in ("REMAINING", "HEADER_LENGTH")]
                self._sides.append(at_boundary)
            if not {name for each in (self._is_whole, *self._sides) for name, _ in each} <= self._places.keys():
                raise KeyError
        except KeyError:
            foreign.close()
            raise ValueError("the table has no cells for the frame boundaries of streams") from None

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._foreign.close()

    def __iter__(self) -> Iterator[tuple[int, list[_Boundary]]]:
        """Tunnel ids, and for each side whether a Close frame may be written to it now (RFC 6455 5.4, 5.5.1)."""
        foreign = self._foreign
        for slot in range(foreign.description.slots):
            for number in range(foreign.used_rows(slot)):
                row = foreign.row(slot, number)
                if row is not None:
                    cells = memoryview(row).cast("q")
                    whole = self._has(cells, self._is_whole)
                    yield (
                        cells[self._places["ID"]],
                        [
                            self._boundary(whole and self._has(cells, wanted), cells, side, slot, number)
                            for side, wanted in enumerate(self._sides)
                        ],
                    )

    def _boundary(self, fits: bool, cells: memoryview[int], side: int, slot: int, number: int) -> _Boundary:
        place = self._places.get(f"{SIDES[side]} TLS")
        if place is None or not cells[place]:
            return _Boundary(fits)
        section = self._foreign.description.session
        at = section.block(slot, number)
        try:
            converted, unknown = self._conversion().sessions(self._foreign.sessions(slot, number))
        except CannotConvert:
            return _Boundary(False, is_tls=True)
        session = array("q", converted[side * SESSION_CELLS : (side + 1) * SESSION_CELLS])
        if not session[VERSION]:
            return _Boundary(fits, is_tls=True)  # a mirror without the keys; the other row of the tunnel has them
        # The last records of a key are not worth a new one, whose traces would have to be in the table as well.
        fits = fits and unknown is None and not session[OUT_CLOSED] and session[OUT_SEQ] < RECORDS_BY_KEY
        names = [section.names[f"{SIDES[side]} {name}"][0] for name in ("OUT_SEQ", "OUT_CLOSED")]
        places = ((at + names[0]) * CELL_BYTES, (at + names[1]) * CELL_BYTES)
        return _Boundary(fits, is_tls=True, session=_Session(session, self._fd, places))

    def _conversion(self) -> Conversion:
        if self._to_own is None:
            described = self._foreign.description
            self._to_own = Conversion(described, describe(described.workers, described.row.count))
        return self._to_own

    def _has(self, cells: memoryview[int], wanted: list[Wanted]) -> bool:
        return all(cells[self._places[name]] in values for name, values in wanted)


def _boundaries(tables: Iterable[int]) -> dict[int, list[_Boundary]]:
    """By tunnel id: for each side, whether a Close frame may be written to it.

    A tunnel that was being moved has two rows, one of them stale. Both must agree.
    """
    found: dict[int, list[_Boundary]] = {}
    for fd in tables:
        with contextlib.suppress(OSError, ValueError), _Rows(fd) as rows:
            for tunnel, sides in rows:
                before = found.get(tunnel, [_Boundary(True)] * len(SIDES))
                found[tunnel] = [one.and_also(other) for one, other in zip(before, sides, strict=True)]
    return found
