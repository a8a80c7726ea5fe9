"""Rows and counters of another layout: what both layouts have is the same after it, whatever the other looks like."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.tls.state import FIELDS, SESSION_CELLS
from gateway.tunnels.table import fields, layout
from gateway.tunnels.table.conversion import CannotConvert, Conversion, Foreign
from gateway.tunnels.table.description import NOTHING, Description, Section
from gateway.tunnels.table.fields import ESSENTIAL, REQUIRED, defaults, describe
from gateway.tunnels.table.layout import SIDE_0, SIDE_CELLS, SIDES
from gateway.tunnels.table.table import Table

from .other_layouts import bare, layout_5, other, sizes_of, texts_in
from .row_cells import PACKAGE, numbered

pytestmark = pytest.mark.either_build

OWN = describe(1, 4)
randoms = st.integers(0, 2**32).map(Random)


def without(description: Description, section: str, *names: str) -> Description:
    """A layout that lacks some cells."""
    before: Section = getattr(description, section)
    kept = {name: place for name, place in before.names.items() if name not in names}
    return replace(description, **{section: replace(before, names=kept)})  # type: ignore[arg-type]


def value_of(description: Description, name: str, value: int) -> str | int:
    """What a value is called."""
    names = {number: called for called, number in description.values.get(bare(name), {}).items()}
    return names.get(value, value)


def random_row(random: Random) -> list[int]:
    """A row of our layout, with a value in each cell that has a name."""
    cells = [0] * layout.ROW_CELLS
    for name, (at, _) in OWN.row.names.items():
        if bare(name) in OWN.values:
            cells[at] = random.choice([*OWN.values[bare(name)].values()])
        elif bare(name) == "TLS":
            side = SIDES.index(name.split()[0])
            cells[at] = random.choice([0, OWN.session.block(1, 2) + side * SESSION_CELLS])
        elif bare(name) == "PEER":
            cells[at] = random.choice([0, SIDE_CELLS if name.startswith(SIDES[0]) else -SIDE_CELLS])
        else:
            cells[at] = random.choice([0, 1, -1, random.randrange(-(2**63), 2**63)])
    cells[layout.ROUTE] = random.randrange(layout.MAX_ROUTES)
    cells[layout.TOTALS] = OWN.totals.block(1, cells[layout.ROUTE])
    if not cells[OWN.row.names["client PEER"][0]]:
        cells[OWN.row.names["backend PEER"][0]] = 0
    return cells


def with_texts(cells: list[int], random: Random) -> bytes:
    """The whole row, with texts in it, and behind it what of them is elsewhere."""
    longest = random.random()  # in some rows all texts are short
    texts = b""
    for size in layout.TEXTS.values():
        text = random.randbytes(int(longest * random.choice([0, size, random.randrange(size + 1)])))
        texts += len(text).to_bytes(2, "little") + text
    here, there = texts[: layout.TEXT_BYTES], texts[layout.TEXT_BYTES :]
    cells = list(cells)
    cells[layout.LONG_TEXTS] = len(there)
    row = bytearray(layout_array(cells))
    row[layout.TEXT_CELL * 8 : layout.TEXT_CELL * 8 + len(here)] = here
    return bytes(row) + there + bytes(-len(there) % 8)


def layout_array(cells: list[int]) -> bytes:
    return b"".join(cell.to_bytes(8, "little", signed=True) for cell in cells)


# --- names ------------------------------------------------------------------------------------------------------------


def test_each_cell_has_a_name_and_a_default_or_a_reason_to_have_none() -> None:
    """A cell that is added to the layout is added to ``fields.py``, with what it is in a tunnel from before."""
    elsewhere = {cause.upper() for cause in layout.CAUSES} | {
        *("H_MAGIC", "H_VERSION", "H_DESCRIPTION_AT", "H_DESCRIPTION_BYTES")
    }
    cells = numbered("tunnels/table/layout.py") - elsewhere | numbered("protocol/scanner_state.py")
    for node in ast.parse((PACKAGE / "tunnels/table/layout.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            cells |= {name for name in (node.targets[0].id,) if name.startswith("T_")}
    known: list[str] = []
    cells |= {*FIELDS}
    of_rows = (fields.ROW, fields.SIDE, fields.SCANNER, fields.SESSION)
    of_totals = (fields.TOTALS, fields.ROUTE_TOTALS)
    for group in (fields.HEADER, fields.WORKER, fields.BACKEND, fields.BACKEND_STATE, *of_totals, *of_rows):
        known += group
    assert {"STATE", "T_GAPS", "W_PID", "STATUS"} <= cells
    assert set(known) == cells
    assert len(known) == len(cells), "a name is there twice"


def test_what_is_essential_or_has_named_values_is_a_cell_of_a_row() -> None:
    names = {bare(name) for name in (*OWN.row.names, *OWN.session.names)}
    assert names >= ESSENTIAL
    assert names >= fields.VALUES.keys()


@pytest.mark.parametrize("section", ["header", "worker", "backend", "totals", "states", "row", "session"])
def test_no_two_cells_are_in_one_place(section: str) -> None:
    found: Section = getattr(OWN, section)
    places = [at + n for at, size in found.names.values() for n in range(size)]
    assert len(places) == len(set(places))
    assert found.names.keys() <= {*defaults(section)}


# --- rows -------------------------------------------------------------------------------------------------------------


@given(randoms)
def test_there_and_back_loses_nothing_that_both_have(random: Random) -> None:
    theirs, default = other(OWN, random)
    cells = random_row(random)
    row = with_texts(cells, random)
    converted, unknown, is_tls = Conversion(OWN, theirs, default).row(1, 2, row)
    assert unknown is None
    assert is_tls == any(cells[OWN.row.names[f"{side} TLS"][0]] for side in SIDES)
    assert len(converted) >= theirs.row.cells
    for name, (at, _) in theirs.row.names.items():
        if bare(name) in ("TOTALS", "PEER", "TLS", "LONG_TEXTS"):
            continue
        if name in OWN.row.names:
            before = value_of(OWN, name, cells[OWN.row.names[name][0]])
            assert value_of(theirs, name, converted[at]) == before, name
        else:
            assert converted[at] == default("row")[name], name
    if "TOTALS" in theirs.row.names:
        assert converted[theirs.row.names["TOTALS"][0]] == theirs.totals.block(1, cells[layout.ROUTE])
    assert texts_in(theirs, converted.tobytes()) == {
        name: text[: sizes_of(theirs)[name]] for name, text in texts_in(OWN, row).items()
    }

    back, unknown, is_tls_again = Conversion(theirs, OWN).row(1, 2, converted.tobytes())
    assert (unknown, is_tls_again) == (None, is_tls)
    expected = list(cells)
    expected[layout.LONG_TEXTS] = back[layout.LONG_TEXTS]
    for name, (at, _) in OWN.row.names.items():
        if name not in theirs.row.names and bare(name) not in ("TOTALS", "LONG_TEXTS"):
            expected[at] = defaults("row")[name] or 0
        if bare(name) == "PEER" and any(f"{side} PEER" not in theirs.row.names for side in SIDES):
            expected[at] = 0
    assert back.tolist()[: layout.TEXT_CELL] == expected[: layout.TEXT_CELL]
    assert texts_in(OWN, back.tobytes()) == texts_in(theirs, converted.tobytes())


@given(randoms)
def test_the_scanners_of_both_sides_find_each_other(random: Random) -> None:
    theirs, default = other(OWN, random, drop=False)
    cells = random_row(random)
    client, backend = (theirs.row.names[f"{side} PEER"][0] for side in SIDES)
    for distance in (0, SIDE_CELLS):
        cells[OWN.row.names["client PEER"][0]] = distance
        cells[OWN.row.names["backend PEER"][0]] = -distance
        converted, _, _ = Conversion(OWN, theirs, default).row(0, 0, layout_array(cells))
        assert converted[client] == (backend - client if distance else 0)
        assert converted[backend] == (client - backend if distance else 0)


@pytest.mark.parametrize("name", [name for name in OWN.row.names if bare(name) in ESSENTIAL])
def test_a_tunnel_with_something_that_its_bytes_rest_on_is_not_carried_on_without(name: str) -> None:
    conversion = Conversion(OWN, without(OWN, "row", name))
    cells = [0] * layout.ROW_CELLS
    assert conversion.row(0, 0, layout_array(cells)).unknown is None
    cells[OWN.row.names[name][0]] = 1
    assert conversion.row(0, 0, layout_array(cells)).unknown == name


def test_what_another_layout_says_is_essential_is_so() -> None:
    """A program can tell those before it that they must not do without something that they do not know."""
    at = OWN.row.names["client END_QUEUED"][0]
    newer = replace(
        without(OWN, "row", "client END_QUEUED"),
        row=replace(OWN.row, names={**without(OWN, "row", "client END_QUEUED").row.names, "client MOOD": (at, 1)}),
        essential=ESSENTIAL | {"MOOD"},
    )
    cells = [0] * layout.ROW_CELLS
    assert Conversion(newer, OWN).row(0, 0, layout_array(cells)).unknown is None
    cells[at] = 1
    assert Conversion(newer, OWN).row(0, 0, layout_array(cells)).unknown == "client MOOD"


@pytest.mark.parametrize("name", ["CAUSE", "client GATE", "backend STATUS", "STATE"])
def test_a_value_that_has_no_name_here_is_told_of(name: str) -> None:
    theirs = replace(OWN, values={**OWN.values, bare(name): {**OWN.values[bare(name)], "NEW": 77}})
    cells = [0] * layout.ROW_CELLS
    at, _ = OWN.row.names[name]
    cells[at] = 77
    converted, unknown, _ = Conversion(theirs, OWN).row(0, 0, layout_array(cells))
    assert unknown == name
    assert converted[at] == 0
    cells[at] = 1
    converted, unknown, _ = Conversion(theirs, OWN).row(0, 0, layout_array(cells))
    assert (converted[at], unknown) == (1, None)


REQUIREMENTS = [
    (section, name)
    for section in ("header", "worker", "backend", "row", "session")
    for name, default in defaults(section).items()
    if default is REQUIRED
]


@pytest.mark.parametrize(("section", "name"), REQUIREMENTS)
def test_a_table_that_lacks_what_is_needed_is_refused(section: str, name: str) -> None:
    with pytest.raises(CannotConvert, match=f"has no {name}, which"):
        Conversion(without(OWN, section, name), OWN)


def test_a_table_for_other_workers_is_refused() -> None:
    with pytest.raises(CannotConvert, match="for 2 workers in 4 slots, not for 1 in 2"):
        Conversion(describe(2, 4), OWN)


# --- sessions ---------------------------------------------------------------------------------------------------------


def random_sessions(random: Random) -> list[int]:
    cells = [0] * layout.SESSIONS_CELLS
    for name, (at, size) in OWN.session.names.items():
        if bare(name) in OWN.values:
            cells[at] = random.choice([*OWN.values[bare(name)].values()])
        else:
            cells[at : at + size] = [random.randrange(-(2**63), 2**63) for _ in range(size)]
    return cells


@given(randoms)
def test_keys_are_the_same_there_and_back(random: Random) -> None:
    theirs, default = other(OWN, random)
    cells = random_sessions(random)
    converted, unknown = Conversion(OWN, theirs, default).sessions(cells)
    assert unknown is None
    assert len(converted) == theirs.session.cells
    back, unknown = Conversion(theirs, OWN).sessions(converted)
    assert unknown is None
    for name, (at, size) in OWN.session.names.items():
        kept = name in theirs.session.names
        assert back[at : at + size] == (cells[at : at + size] if kept else [0] * size), name
        assert kept or bare(name) not in ESSENTIAL


@pytest.mark.parametrize("name", [name for name in OWN.session.names if bare(name) in ESSENTIAL])
def test_a_session_with_something_unknown_is_not_carried_on(name: str) -> None:
    conversion = Conversion(OWN, without(OWN, "session", name))
    cells = [0] * layout.SESSIONS_CELLS
    assert conversion.sessions(cells)[1] is None
    cells[sum(OWN.session.names[name]) - 1] = 1
    assert conversion.sessions(cells)[1] == name


@pytest.mark.parametrize("name", ["client VERSION", "backend SUITE"])
def test_a_session_of_a_kind_that_has_no_name_here_is_not_carried_on(name: str) -> None:
    theirs = replace(OWN, values={**OWN.values, bare(name): {**OWN.values[bare(name)], "NEW": 77}})
    cells = [0] * layout.SESSIONS_CELLS
    cells[OWN.session.names[name][0]] = 77
    assert Conversion(theirs, OWN).sessions(cells)[1] == name


def test_a_session_lies_where_its_row_does() -> None:
    """``TLS`` is worked out for the row that a tunnel gets in the other table."""
    cells = [0] * layout.ROW_CELLS
    cells[OWN.row.names["backend TLS"][0]] = 12345
    roomier = describe(1, 9)
    converted, unknown, is_tls = Conversion(OWN, roomier).row(1, 7, layout_array(cells))
    assert (unknown, is_tls) == (None, True)
    assert converted[OWN.row.names["client TLS"][0]] == 0
    assert converted[OWN.row.names["backend TLS"][0]] == roomier.session.block(1, 7) + SESSION_CELLS


def before_tls() -> Description:
    """Layout 3."""
    names = [name for name in OWN.row.names if bare(name) in ("TLS", "TRUNCATED")]
    values = {name: each for name, each in OWN.values.items() if name not in ("VERSION", "SUITE", "ROLE")}
    essential = ESSENTIAL - {bare(name) for name in OWN.session.names} - {"TLS"}
    plain = replace(without(OWN, "row", *names), version=3, session=NOTHING, values=values, essential=essential)
    assert b"session" not in plain.dump()
    return Description.load(plain.dump())


def test_a_table_from_before_tls_has_plain_tunnels() -> None:
    cells = [1] * layout.ROW_CELLS
    cells[OWN.row.names["client PEER"][0]] = 0
    converted, unknown, is_tls = Conversion(before_tls(), OWN).row(0, 0, layout_array(cells))
    assert (unknown, is_tls) == (None, False)
    assert not any(converted[OWN.row.names[f"{side} TLS"][0]] for side in SIDES)


@pytest.mark.parametrize("side", SIDES)
def test_a_program_that_knows_no_tls_does_not_carry_it_on(side: str) -> None:
    conversion = Conversion(OWN, before_tls(), lambda section: {} if section == "session" else defaults(section))
    cells = [0] * layout.ROW_CELLS
    assert conversion.row(0, 0, layout_array(cells)).unknown is None
    cells[OWN.row.names[f"{side} TLS"][0]] = OWN.session.block(0, 0)
    assert conversion.row(0, 0, layout_array(cells)).unknown == f"{side} TLS"


# --- counters ---------------------------------------------------------------------------------------------------------


def histogram(description: Description, name: str, block: list[int]) -> tuple[Mapping[int, int], int]:
    """How many were counted up to each bound, and how many in all."""
    at, size = description.totals.names[name]
    *counts, total = accumulate(block[at : at + size])
    return dict(zip(description.bounds[bare(name)], counts, strict=True)), total


@given(randoms)
def test_counters_are_kept_there_and_back(random: Random) -> None:
    theirs, default = other(OWN, random)
    there, back = Conversion(OWN, theirs, default), Conversion(theirs, OWN)
    block = [random.randrange(2**40) for _ in range(OWN.totals.cells)]
    converted, _ = there.totals.convert(block)
    again, _ = back.totals.convert(converted)
    for name, (at, size) in theirs.totals.names.items():
        if name not in OWN.totals.names:
            assert converted[at : at + size] == [default("totals")[name]] * size
    for name, (at, size) in OWN.totals.names.items():
        if name not in theirs.totals.names:
            assert again[at : at + size] == [0] * size, name
        elif bare(name) in OWN.bounds:
            before, total = histogram(OWN, name, block)
            for description, cells in ((theirs, converted), (OWN, again)):
                after, total_after = histogram(description, name, cells)
                assert total_after == total
                both = before.keys() & after.keys() & set(theirs.bounds[bare(name)])
                assert {bound: after[bound] for bound in both} == {bound: before[bound] for bound in both}
        else:
            there_at, _ = theirs.totals.names[name]
            assert converted[there_at : there_at + size] == block[at : at + size] == again[at : at + size], name


@given(randoms)
def test_a_counter_that_grows_is_not_less_after_it(random: Random) -> None:
    """Buckets, which are summed up to each bound, too."""
    theirs, _ = other(OWN, random)
    conversion = Conversion(theirs, OWN)
    block = [random.randrange(1000) for _ in range(theirs.totals.cells)]
    before, _ = conversion.totals.convert(block)
    after, _ = conversion.totals.convert([cell + random.randrange(3) for cell in block])
    assert all(a >= b for a, b in zip(after, before, strict=True))


@given(randoms)
def test_what_workers_say_of_themselves_is_kept(random: Random) -> None:
    theirs, default = other(OWN, random)
    there, back = Conversion(OWN, theirs, default), Conversion(theirs, OWN)
    for section in ("worker", "backend"):
        own: Section = getattr(OWN, section)
        block = [random.randrange(2**62) for _ in range(own.cells)]
        again, unknown = getattr(back, section).convert(getattr(there, section).convert(block)[0])
        assert unknown is None
        for name, (at, _) in own.names.items():
            kept = name in getattr(theirs, section).names
            assert again[at] == (block[at] if kept else defaults(section)[name]), name


@pytest.mark.parametrize("name", layout.TEXTS)
def test_a_length_that_cannot_be_is_cut_to_the_text(name: str) -> None:
    """A row that is read while it is written may have any."""
    theirs = layout_5(OWN)
    theirs = replace(theirs, texts={**theirs.texts, name: (theirs.texts[name][0], 5)})
    row = bytearray(b"x" * theirs.row.cells * 8)
    at, _ = theirs.texts[name]
    row[at : at + 2] = b"\xff\xff"
    converted = Conversion(theirs, OWN).row(0, 0, bytes(row)).cells.tobytes()
    assert texts_in(OWN, converted)[name] == b"xxxxx"


@pytest.mark.parametrize("behind", [b"", b"y" * 8, b"y" * layout.LONG_TEXTS_CELLS * 8])
def test_packed_lengths_that_cannot_be_are_cut(behind: bytes) -> None:
    """All texts have any length, and the row any part of its long texts."""
    row = b"\xff" * layout.ROW_CELLS * 8
    converted = Conversion(OWN, OWN).row(0, 0, row + behind).cells
    found = texts_in(OWN, converted.tobytes())
    assert [len(found[name]) <= size for name, size in layout.TEXTS.items()] == [True] * len(layout.TEXTS)
    assert found["client"] == b"\xff" * layout.TEXTS["client"]
    assert 0 <= converted[layout.LONG_TEXTS] <= layout.LONG_TEXTS_BYTES


def test_a_table_from_before_plain_requests_were_counted_has_none_in_flight() -> None:
    """Layout 2."""
    before = without(without(OWN, "backend", "B_REQUESTS", "B_IDLE"), "totals", "T_REQUESTS")
    conversion = Conversion(replace(before, version=2), OWN)
    backend, _ = conversion.backend.convert([7] * OWN.backend.cells)
    assert [backend[cell] for cell in (layout.B_LIVE, layout.B_REQUESTS, layout.B_IDLE)] == [7, 0, 0]
    totals, _ = conversion.totals.convert([7] * OWN.totals.cells)
    assert (totals[layout.T_BYTES], totals[layout.T_REQUESTS]) == (7, 0)


# --- reading ----------------------------------------------------------------------------------------------------------


class ChangesHands:
    """Cells of a table in which, while a row is copied, that becomes another tunnel's."""

    def __init__(self, cells: memoryview[int], row: int) -> None:
        self.cells = cells
        self.row = row

    def __getitem__(self, at: int | slice) -> int | memoryview[int]:
        if isinstance(at, slice):
            self.cells[self.row + layout.ID] += 1
        return self.cells[at]


def test_a_row_that_changes_hands_is_not_read() -> None:
    with closing(Table.create(1, 4)) as table:
        table.cells[table.first_row(1) + layout.STATE] = layout.LIVE
        foreign = Foreign(table.fd)
        assert foreign.row(1, 0) is not None
        mapped = foreign.cells
        foreign.cells = ChangesHands(table.cells, table.first_row(1))  # type: ignore[assignment]  # for a moment
        assert foreign.row(1, 0) is None
        foreign.cells = mapped
        foreign.close()


def test_a_row_that_is_free_is_not_read() -> None:
    with closing(Table.create(1, 4)) as table:
        foreign = Foreign(table.fd)
        first = table.first_row(1)
        assert foreign.row(1, 0) is None
        table.cells[first + layout.STATE] = layout.LIVE
        table.cells[first + SIDE_0] = 7
        row = foreign.row(1, 0)
        assert row is not None
        assert memoryview(row).cast("q")[SIDE_0] == 7
        assert foreign.in_use(1, 0, 4) == [True, False, False, False]
        assert foreign.number_of(1, first + 2 * layout.ROW_CELLS) == 2
        for row_at in (first - layout.ROW_CELLS, first + 1, first + 4 * layout.ROW_CELLS):
            with pytest.raises(ValueError, match="has no row at"):
                foreign.number_of(1, row_at)
        foreign.close()
