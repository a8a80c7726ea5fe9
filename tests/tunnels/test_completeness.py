"""Nothing of a tunnel is anywhere but in its row, and of its row no cell and no state is left out by the tests."""

from __future__ import annotations

import ast

import pytest

from gateway.tunnels.table import layout
from gateway.tunnels.table.layout import ROW_CELLS

from .harness import NS, Rig
from .row_cells import IN_THE_ROW, PACKAGE, REBUILT, ZERO_IN_A_CLEAN_ROW, names_of_cells, numbered, words
from .states import BUFFERS, STATES, cut_off
from .tls_peers import BOTH_NEW

HOLDINGS = {
    # Of these, owners, pending, halves and wakes are about tunnels: adopt fills in the first and the last, the others
    # hold nothing of a clean row.
    "tunnels/relay/streams.py Streams": words(
        "kernel cells owner owners pending halves records closing_fds tick_ns wakes called now"
    ),
    "tunnels/relay/ending.py Ending": words("called now"),
    "tunnels/relay/failing.py Failing": words("quiet_until unlogged called now"),
    "tunnels/relay/limiting.py Limiting": words("refusal left woken"),  # of one call
    "tunnels/relay/pinging.py Pinging": words("refusal left called now"),
    "tunnels/relay/sealed.py Sealed": {"now"},
    "tunnels/relay/metering.py Metering": set(),
    "tunnels/relay/reading.py Reading": words("tick_ns upkeep_ns called now"),
    "tunnels/relay/relay.py Relay": {"now"},
    "tunnels/relay/poller.py Poller": words(
        "kernel relay on_failure wires heavy is_loaded _callbacks _readers _recalled _received _deferred"
    ),
    # What is taken is about rows that a worker which died in an upgrade may still have: its successor looks there, too.
    "tunnels/table/slice.py Slice": words(
        "table slot cells own block first counts _reserved_row _empty_row _rows_per_worker _backends_at _routes_at"
        " _free _taken"  # counts: rebuilt from rows
    ),
    "edge/edge.py Edge": words("""
        loop poller slice descriptors batch config addresses handshakes requests owner deadlines pool clients tls
        tls_wire ways _preambles credentials limiting failures counts admissions
        """),
    "edge/owner.py Owner": words("""
        slice relay intervals on_learned draining drained _loop _store _ends _batch _handshakes _sweep _drains
        _losses _pacing_until_ns _next_walk
        """),
    "observe/ends.py Ends": {"_table", "_registry", "_events", "_batch", "_known"},
}
"""What objects of a worker that see tunnels have as attributes. None of them holds anything of a tunnel by itself."""


def test_each_cell_of_a_row_is_carried_on_or_rebuilt() -> None:
    """A new cell must be put into one of the sets in ``row_cells.py``: what does a successor do with it?"""
    elsewhere = {cause.upper() for cause in layout.CAUSES}
    cells = {
        name
        for name in numbered("tunnels/table/layout.py") - elsewhere
        if name[:2] not in ("H_", "W_", "B_", "T_", "S_")
    }
    cells |= numbered("protocol/scanner_state.py")
    assert {"STATE", "FD", "ENDED", "STATUS"} <= cells
    assert cells == IN_THE_ROW | REBUILT | ZERO_IN_A_CLEAN_ROW
    assert len(cells) == len(IN_THE_ROW) + len(REBUILT) + len(ZERO_IN_A_CLEAN_ROW)


@pytest.mark.parametrize("where", HOLDINGS)
def test_nothing_of_a_tunnel_is_outside_of_its_row(where: str) -> None:
    """A new attribute is listed above if it is not about single tunnels. If it is, it belongs into the row."""
    path, name = where.split()
    tree = ast.parse((PACKAGE / path).read_text())
    (body,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    found = {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    assert found == HOLDINGS[where]


def test_no_state_is_left_out() -> None:
    """The states of ``states.py`` are different ones: together they touch each cell that a state can be in."""
    names = names_of_cells()
    touched: set[str | None] = set()
    for bring_about in [*STATES, cut_off]:
        rig = Rig()
        try:
            tunnel = rig.open(buffers=BUFFERS, idle=60 * NS, tls=BOTH_NEW if bring_about is cut_off else ())
            start = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
            bring_about(rig, tunnel)
            rig.rest()
            now = rig.cells[tunnel.row : tunnel.row + ROW_CELLS].tolist()
            touched |= {names.get(offset) for offset in range(ROW_CELLS) if start[offset] != now[offset]}
        finally:
            rig.close()
    fixed_at_the_opening = words("""
        STATE ID ROUTE BACKEND TOTALS OPENED_NS OPENED_UNIX_NS KIND WRITE_STALL_NS CLOSE_NS IDLE_NS LIFETIME_NS FD
        MASKING PEER PING_AFTER_NS PONG_TIMEOUT_NS NETWORK ON_LOSS_CODE TLS EXPIRES_NS EXPIRY_CODE
        HASH_KEY LONG_TEXTS
        """)
    found = {name.split()[-1] for name in touched if name}
    assert found | fixed_at_the_opening | ZERO_IN_A_CLEAN_ROW == IN_THE_ROW | REBUILT | ZERO_IN_A_CLEAN_ROW
