"""Layouts that no program ever had: cells moved, added and dropped, rows wider, more causes.

Texts have other widths, and are packed in another order, or each has a place of its own as in layouts up to 5.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

from gateway.tunnels.table import description
from gateway.tunnels.table.conversion import Conversion, Foreign
from gateway.tunnels.table.description import CELL_BYTES, NOTHING, Description, PackedTexts, Section
from gateway.tunnels.table.fields import ESSENTIAL, VALUES, defaults
from gateway.tunnels.table.layout import TEXTS, W_HIGH_ROWS
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
    packed = None
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
            if random.random() < 0.6:
                packed, cells = _packed(list(TEXTS), cells, random)
            else:
                texts, cells = _texts(list(TEXTS), cells, random)
        sections[name] = Section(at, cells + random.randrange(4), section.count, names)
        at = sections[name].end(own.slots) + random.randrange(3)
    long_texts = NOTHING
    if packed is not None:
        most = sum(2 + size for _, size in packed.texts) - packed.size
        long_texts = Section(at, -(-max(most, 1) // CELL_BYTES), own.row.count, {})
    made = replace(
        own,
        version=own.version + 1,
        **sections,  # type: ignore[arg-type]  # of one type all of them
        texts=texts,
        packed=packed,
        long_texts=long_texts,
        values={name: _other_values(name, each, random) for name, each in own.values.items()},
        bounds=bounds,
    )
    return Description.load(made.dump()), lambda section: {**defaults(section), **of_new.get(section, {})}


def bare(name: str) -> str:
    """The name of a cell without its side."""
    return name.split()[-1]


def sizes_of(description: Description) -> dict[str, int]:
    """The most bytes of each text."""
    if description.packed is not None:
        return dict(description.packed.texts)
    return {name: size for name, (_, size) in description.texts.items()}


def texts_in(description: Description, row: bytes) -> dict[str, bytes]:
    """:param row: whole, and behind it its long texts"""
    found = {}
    if (packed := description.packed) is not None:
        cells = memoryview(row).cast("q")
        there = cells[description.row.names["LONG_TEXTS"][0]]
        behind = row[description.row.cells * 8 :]
        assert len(behind) == -(-there // 8) * 8
        assert not there or packed.size < sum(2 + size for _, size in packed.texts)
        data = row[packed.at : packed.at + packed.size] + behind[:there]
        for name, size in packed.texts:
            length = int.from_bytes(data[:2], "little")
            assert length <= min(size, len(data) - 2)
            found[name] = data[2 : 2 + length]
            data = data[2 + length :]
        assert not any(data)
        return found
    for name, (at, size) in description.texts.items():
        length = int.from_bytes(row[at : at + 2], "little")
        assert length <= size
        found[name] = row[at + 2 : at + 2 + length]
    return found


def layout_5(own: Description) -> Description:
    """The last layout without packed texts: each had a place of its own in a wider row."""
    names = {name: place for name, place in own.row.names.items() if name != "LONG_TEXTS"}
    texts = {}
    at = max(cell + size for cell, size in names.values()) * CELL_BYTES
    for name, size in TEXTS.items():
        texts[name] = (at, size)
        at += 2 + size
    row = replace(own.row, cells=-(-at // CELL_BYTES), names=names)
    session = replace(own.session, at=row.end(own.slots) + 5)
    made = replace(own, version=5, row=row, session=session, texts=texts, packed=None, long_texts=NOTHING)
    return Description.load(made.dump())


def as_read_by_layout_5(own: Description) -> Description:
    """Our description as a program reads it that knows no packed texts."""
    found = json.loads(own.dump())
    del found["packed"], found["long_texts"]
    return Description.load(json.dumps(found).encode())


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
                _write(fd, to.row.block(slot, n), converted.cells[: to.row.cells])
                _write(fd, to.long_texts.block(slot, n), converted.cells[to.row.cells :])
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
    optional = defaults(section)[cell] is not None and bare(cell) not in ESSENTIAL | {"LONG_TEXTS"}
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


def _packed(names: list[str], cells: int, random: Random) -> tuple[PackedTexts, int]:
    random.shuffle(names)
    at = cells * CELL_BYTES + random.randrange(8)
    made = PackedTexts(at, random.randrange(400), tuple((name, random.randrange(300)) for name in names))
    return made, -(-(at + made.size) // CELL_BYTES)


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
