"""What cells a tunnel's row has, by name, and what each of them is to a process that goes on with it."""

from __future__ import annotations

import ast
from pathlib import Path

import gateway
from gateway.protocol.scanner_state import SCANNER_CELLS
from gateway.tunnels.table import layout
from gateway.tunnels.table.layout import SCANNER, SIDE_0, SIDE_CELLS, SIDES

PACKAGE = Path(gateway.__file__).parent


def words(text: str) -> set[str]:
    return set(text.split())


IN_THE_ROW = words("""
    STATE ID ROUTE BACKEND TOTALS PHASE OPENED_NS OPENED_UNIX_NS KIND CLOSING_NS WRITE_STALL_NS CLOSE_NS IDLE_NS
    LIFETIME_NS INITIATOR CAUSE CLOSE_CODE_SENT GATE LAST_NS BYTES ENDED SHUT STATUS REST REMAINING HEADER_LENGTH
    MASKING MESSAGE FRAMES DATA_AT OPCODE HEADER_LOW HEADER_HIGH MASK CONTROL_READ DIGEST CLOSE_CODE
    PING_AT PING_ID PONG_AT PONG_ID PEER
    END_SIDE ON_LOSS_CODE PACED_NS PACED_CODE EXPIRES_NS EXPIRY_CODE HASH_KEY LONG_TEXTS
    PING_AFTER_NS PONG_TIMEOUT_NS NETWORK PINGS_SENT PINGS_ANSWERED PING_TAG PINGED_NS WROTE_NS PONG_NS RTT_NS
    SILENCE_NS HELD HELD_LOW HELD_HIGH END_IDLE_NS END_QUIET_NS END_QUEUED TALKS TLS TRUNCATED
    OWN_CLOSE_CODE FRAME_LIMIT MESSAGE_NS MESSAGE_BURST_NS NEXT_MESSAGE_NS
    """)
"""Cells that mean the same in any process."""

REBUILT = {"FD", "INTEREST", "DEADLINE_NS"}
"""Cells that ``Relay.adopt`` writes anew, or has the sweep write, from the others."""

ZERO_IN_A_CLEAN_ROW = {"DIRTY", "PENDING", "STALLED_NS"}
"""Cells about what is in a process's hands: of a tunnel that is carried on, nothing was."""


def numbered(source: str) -> set[str]:
    """Names that a module numbers with ``range``."""
    found = set()
    for node in ast.parse((PACKAGE / source).read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Tuple):
            found |= {name.id for name in node.targets[0].elts if isinstance(name, ast.Name)}
    return found


def names_of_cells() -> dict[int, str]:
    """The name of each cell of a row that has one, by its offset."""
    found = {}
    scanner = numbered("protocol/scanner_state.py")
    of_a_side = words("""
        FD PENDING GATE LAST_NS BYTES INTEREST STALLED_NS ENDED SHUT PING_AFTER_NS PONG_TIMEOUT_NS NETWORK PINGS_SENT
        PINGS_ANSWERED PING_TAG PINGED_NS WROTE_NS PONG_NS RTT_NS SILENCE_NS HELD HELD_LOW HELD_HIGH END_IDLE_NS
        END_QUIET_NS END_QUEUED TALKS TLS OWN_CLOSE_CODE FRAME_LIMIT MESSAGE_NS MESSAGE_BURST_NS NEXT_MESSAGE_NS
        """)
    for name in IN_THE_ROW | REBUILT | ZERO_IN_A_CLEAN_ROW:
        if name in scanner:
            module = __import__("gateway.protocol.scanner_state", fromlist=[name])
            offsets = [SIDE_0 + side * SIDE_CELLS + SCANNER + getattr(module, name) for side in range(len(SIDES))]
        elif name in of_a_side:
            offsets = [SIDE_0 + side * SIDE_CELLS + getattr(layout, name) for side in range(len(SIDES))]
        else:
            offsets = [getattr(layout, name)]
        for side, offset in enumerate(offsets):
            assert offset not in found
            found[offset] = name if len(offsets) == 1 else f"{SIDES[side]} {name}"
    assert SCANNER_CELLS <= layout.STALLED_NS - SCANNER
    return found
