"""Tunnels that nobody can carry on are ended as well as that can be done by somebody who does not relay."""

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
"""A cell, and values that it may have."""


def end_all(tunnels: Iterable[tuple[int, Connections]], tables: Collection[int]) -> int:
    """End tunnels, with a Close frame (1012) to each side whose stream is at a frame boundary, and close their sockets.

    Nobody waits for an answer. Nobody may serve them meanwhile.

    :param tables: descriptors of tables, of whatever layouts, that tell where the streams of these tunnels are
    :returns: how many sides were told
    """
    boundaries = _boundaries(tables)
    told = 0
    for tunnel, connections in tunnels:
        for side, fd in enumerate(connections):
            try:
                sock = socket.socket(fileno=fd)
            except OSError:  # no socket, or none any more
                with contextlib.suppress(OSError):
                    os.close(fd)
                continue
            with sock, contextlib.suppress(OSError):
                sock.setblocking(False)
                if tunnel in boundaries and boundaries[tunnel][side]:
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


class _Rows:
    """How the streams of tunnels stand in a table of any layout."""

    def __init__(self, fd: int) -> None:
        """:raises ValueError: it is no table, or it does not tell"""
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
            raise ValueError("the table does not say where streams are") from None

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._foreign.close()

    def __iter__(self) -> Iterator[tuple[int, list[bool]]]:
        """Ids, and of each side whether a Close frame may be written to it now (RFC 6455 5.4, 5.5.1)."""
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
    """By tunnel: of each side, whether a Close frame may be written to it.

    A tunnel that was about to be moved is in two rows. One of them is up to date, so all have to agree.
    """
    found: dict[int, list[bool]] = {}
    for fd in tables:
        with contextlib.suppress(OSError, ValueError), _Rows(fd) as rows:
            for tunnel, sides in rows:
                before = found.get(tunnel, [True, True])
                found[tunnel] = [one and other for one, other in zip(before, sides, strict=True)]
    return found
