"""Final close: ends tunnels that no worker can resume, with a Close frame where one fits (RFC 6455 5.4)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Iterable, Iterator

from gateway.protocol.closing import SERVICE_RESTART
from gateway.protocol.frames import close_frame
from gateway.tunnels.moving.adoption import Connections
from gateway.tunnels.table.conversion import Foreign
from gateway.tunnels.table.layout import BACKEND_SIDE, SIDES

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
                if tunnel in boundaries and boundaries[tunnel][side]:
                    mask = os.urandom(4) if side == BACKEND_SIDE else None
                    sock.send(close_frame(SERVICE_RESTART, "", mask))
                    sent += 1
                sock.shutdown(socket.SHUT_WR)
                # Closing with unread bytes would reset the connection, and the Close frame could be lost.
                for _ in range(MOST_READ):
                    if not sock.recv(READ_BYTES):
                        break
                sock.shutdown(socket.SHUT_RDWR)
    return sent


class _Rows:
    """Frame boundaries of the streams in a table of any layout."""

    def __init__(self, fd: int) -> None:
        """:raises ValueError: this is no table, or it lacks the cells for that"""
        self._foreign = foreign = Foreign(fd)
        try:
            self._places = {name: at for name, (at, _) in foreign.description.row.names.items()}
            values = foreign.description.values
            self._is_whole: list[Wanted] = [
                ("KIND", (values["KIND"]["WEBSOCKET"],)),
                ("PHASE", (values["PHASE"]["RELAYING"],)),
            ]
            self._is_whole.append(("DIRTY", (0,)))
            gates, status = (values["GATE"]["PASS"], values["GATE"]["PONG_DUE"]), values["STATUS"]["OPEN"]
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

    def __iter__(self) -> Iterator[tuple[int, list[bool]]]:
        """Tunnel ids, and for each side whether a Close frame may be written to it now (RFC 6455 5.4, 5.5.1)."""
        foreign = self._foreign
        for slot in range(foreign.description.slots):
            for number in range(foreign.used_rows(slot)):
                row = foreign.row(slot, number)
                if row is not None:
                    cells = memoryview(row).cast("q")
                    whole = self._has(cells, self._is_whole)
                    yield cells[self._places["ID"]], [whole and self._has(cells, each) for each in self._sides]

    def _has(self, cells: memoryview[int], wanted: list[Wanted]) -> bool:
        return all(cells[self._places[name]] in values for name, values in wanted)


def _boundaries(tables: Iterable[int]) -> dict[int, list[bool]]:
    """By tunnel id: for each side, whether a Close frame may be written to it.

    A tunnel that was being moved has two rows, one of them stale. Both must agree.
    """
    found: dict[int, list[bool]] = {}
    for fd in tables:
        with contextlib.suppress(OSError, ValueError), _Rows(fd) as rows:
            for tunnel, sides in rows:
                before = found.get(tunnel, [True, True])
                found[tunnel] = [one and other for one, other in zip(before, sides, strict=True)]
    return found
