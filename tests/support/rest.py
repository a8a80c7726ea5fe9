"""A worker at rest: if it is killed then, each of its tunnels goes on.

A worker that has just passed a message on, and whose other end has it already, may still be about to say so in the
tunnel's row (``DIRTY`` in ``relay.py``); on a busy machine that takes a while. Killed then, it loses the tunnel, and
rightly so. Nor does a tunnel go on of which the supervisor has not been sent the connections yet.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gateway.tunnels.table.layout import DIRTY, FD, SIDE_0, SIDE_CELLS, W_PID
from gateway.tunnels.table.table import Table
from tests.support.deadline import eventually


def table_of(supervisor: int) -> Table:
    """The table of a gateway."""
    for entry in Path(f"/proc/{supervisor}/fd").iterdir():
        if "memfd:gateway-tunnels" in os.readlink(entry):
            return Table(os.open(entry, os.O_RDWR))
    raise AssertionError("the supervisor has no table")


async def stop_at_rest(supervisor: int, worker: int, in_store: bool = False) -> None:
    """Stop a worker (SIGSTOP) at a moment when it has no byte of any tunnel in its hands.

    :param in_store: and when the supervisor has the connections of all its tunnels, too
    """
    table = table_of(supervisor)
    (slot,) = (each for each in range(table.slots) if table.cells[table.worker(each) + W_PID] == worker)

    def stopped() -> bool:
        os.kill(worker, signal.SIGSTOP)
        if _state(worker) != "T":
            return False  # it will be before long
        rows = list(table.rows(slot))
        if not any(table.cells[row + DIRTY] for row in rows):
            fds = {table.cells[row + SIDE_0 + side * SIDE_CELLS + FD] for row in rows for side in range(2)}
            if not in_store or {os.readlink(f"/proc/{worker}/fd/{fd}") for fd in fds} <= _open(supervisor):
                return True
        os.kill(worker, signal.SIGCONT)
        return False

    try:
        await eventually(stopped, f"worker {worker} to be at rest")
    finally:
        table.close()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _open(pid: int) -> set[str]:
    """What a process has open, as /proc names it. For one that closes nothing meanwhile, or is asked again."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    return found
