"""Layouts that no program ever had: cells moved, added and dropped, rows wider, texts of other widths, more causes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

from gateway.tunnels.table import description
from gateway.tunnels.table.conversion import Conversion, Foreign
from gateway.tunnels.table.description import CELL_BYTES, Description, Section
from gateway.tunnels.table.fields import ESSENTIAL, VALUES, defaults
from gateway.tunnels.table.layout import W_HIGH_ROWS
from gateway.tunnels.table.table import Table

SECTIONS = ("worker", "backend", "totals", "states", "row", "session")
Defaults = Callable[[str], Mapping[str, int | None]]


def other(own: Description, random: Random, drop: bool = True) -> tuple[Description, Defaults]:
    """Another layout for a table of the same size, and what its new cells hold in a tunnel from ours.

    :param drop: it lacks some of our cells
    """
    bounds = {name: _other_bounds(each, random) for name, each in own.bounds.items()}
    of_new: dict[str, dict[str, int]] = {}
    sections: dict[str, Section] = {}
    texts: dict[str, tuple[int, int]] = {}
    at = 2048 + random.randrange(100)
    sections["header"] = Section(0, at, 1, own.header.names)
    for name in SECTIONS:
        section: Section = getattr(own, name)
        new = of_new[name] = {f"{'client ' * random.randrange(2)}NEW_{n}": random.randrange(1000) for n in range(5)}
        sizes = {cell: size for cell, (_, size) in section.names.items() if not (drop and _may_go(name, cell, random))}
        for cell in sizes:
            if cell.split()[-1] in bounds:
                sizes[cell] = len(bounds[cell.split()[-1]]) + 1
        sizes |= dict.fromkeys(new, 1)
        names, cells = _places(sizes, random)
        if name == "row":
            texts, cells = _texts(list(own.texts), cells, random)
        sections[name] = Section(at, cells + random.randrange(4), section.count, names)
        at = sections[name].end(own.slots) + random.randrange(3)
    made = replace(
        own,
        version=own.version + 1,
        **sections,  # type: ignore[arg-type]  # of one type all of them
        texts=texts,
        values={name: _other_values(name, each, random) for name, each in own.values.items()},
        bounds=bounds,
    )
    return Description.load(made.dump()), lambda section: {**defaults(section), **of_new.get(section, {})}


def bare(name: str) -> str:
    """The name of a cell without its side."""
    return name.split()[-1]


def translated(table: Table, to: Description, default: Defaults, names: tuple[int, int] = (3, 3)) -> int:
    """What a table would be if programs of another layout had written it; a descriptor."""
    foreign = Foreign(table.fd)
    conversion = Conversion(foreign.description, to, default)
    fd = os.memfd_create("other-layout")
    os.ftruncate(fd, to.size_bytes)
    description.write(fd, to, to.header.cells * CELL_BYTES)
    header, _ = conversion.header.convert(foreign.block(foreign.description.header, 0))
    for at, _ in to.header.names.values():
        os.pwrite(fd, header[at].to_bytes(CELL_BYTES, "little"), at * CELL_BYTES)
    for n in range(names[1]):
        assert conversion.states is not None
        block, _ = conversion.states.convert(foreign.block(foreign.description.states, 0, n))
        _write(fd, to.states.block(0, n), block)
    for slot in range(to.slots):
        for section, blocks, number in (
            ("worker", conversion.worker, 1),
            ("backend", conversion.backend, names[1]),
            ("totals", conversion.totals, names[0]),
        ):
            for n in range(number):
                block, _ = blocks.convert(foreign.block(getattr(foreign.description, section), slot, n))
                _write(fd, getattr(to, section).block(slot, n), block)
        for n in range(table.cells[table.worker(slot) + W_HIGH_ROWS]):
            row = foreign.row(slot, n)
            if row is not None:
                converted = conversion.row(slot, n, row)
                _write(fd, to.row.block(slot, n), converted.cells)
                if converted.is_tls:
                    _write(fd, to.session.block(slot, n), conversion.sessions(foreign.sessions(slot, n))[0])
    foreign.close()
    return fd


def address_in(table: Table, to: Description, slot: int, row: int) -> int:
    """Where a row of our table is in one of another layout."""
    first = table.first_row(slot)
    return to.row.block(slot, (row - first) // table.description.row.cells)


def _write(fd: int, at: int, cells: list[int] | array[int]) -> None:
    os.pwrite(fd, array("q", cells).tobytes(), at * CELL_BYTES)


def _may_go(section: str, cell: str, random: Random) -> bool:
    optional = defaults(section)[cell] is not None and bare(cell) not in ESSENTIAL
    return optional and random.random() < 0.2


def _places(sizes: dict[str, int], random: Random) -> tuple[dict[str, tuple[int, int]], int]:
    """Cells in any order, with gaps; where they are, and where the last one ends."""
    names = list(sizes)
    random.shuffle(names)
    found = {}
    at = random.randrange(3)
    for name in names:
        found[name] = (at, sizes[name])
        at += sizes[name] + (random.random() < 0.1)
    return found, at


def _texts(names: list[str], cells: int, random: Random) -> tuple[dict[str, tuple[int, int]], int]:
    random.shuffle(names)
    found = {}
    at = cells * CELL_BYTES + random.randrange(8)
    for name in names:
        found[name] = (at, random.randrange(300))
        at += 2 + found[name][1] + random.randrange(3)
    return found, -(-at // CELL_BYTES)


def _other_bounds(bounds: tuple[int, ...], random: Random) -> tuple[int, ...]:
    kept = {bound for bound in bounds if random.random() < 0.7}
    return tuple(sorted(kept | {random.randrange(1, 2 * bounds[-1]) for _ in range(random.randrange(5))}))


def _other_values(cell: str, values: Mapping[str, int], random: Random) -> dict[str, int]:
    """Other numbers for the same names, and two names more; 0 stays what it is, where that is the state of nothing."""
    assert values == VALUES[cell]
    fixed = [name for name, value in values.items() if value == 0 and cell in ("STATE", "VERSION")]
    names = [*(name for name in values if name not in fixed), "NEW_1", "NEW_2"]
    random.shuffle(names)
    return {name: number for number, name in enumerate([*fixed, *names])}
