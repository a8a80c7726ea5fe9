"""Reload after reload leaves nothing behind in a worker's memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import Backends, StartGateway
from tests.support.deadline import eventually
from tests.support.gateway import to_one

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

RELOADS = 5

# Every Python process of the gateway imports this. At each signal it holds a new object, which is part of a cycle as
# objects of a configuration may be, drops the previous one, and appends to a file how many of them live.
CUSTOMIZE = """
import os, signal, weakref

class Part:
    def __init__(self):
        self.itself = self

held = None
parts = weakref.WeakSet()

def note(*_):
    global held
    held = Part()
    parts.add(held)
    with open(os.environ["GARBAGE_NOTES"], "a") as file:
        print(os.getpid(), len(parts), file=file)

signal.signal(signal.SIGRTMIN, note)
"""


async def test_what_an_old_configuration_leaves_is_freed(
    start_gateway: StartGateway, backends: Backends, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CUSTOMIZE)
    notes = tmp_path / "notes"
    notes.touch()
    web = await backends.web()
    gateway = await start_gateway(
        {"workers": 1, **to_one(web.address)}, env={"PYTHONPATH": str(tmp_path), "GARBAGE_NOTES": str(notes)}
    )
    (worker,) = await gateway.worker_pids()
    for count in range(1, RELOADS + 1):
        os.kill(worker, signal.SIGRTMIN)
        await eventually(lambda count=count: len(notes.read_text().splitlines()) == count, "a note")
        await gateway.reload()
    last = notes.read_text().splitlines()[-1].split()
    assert int(last[0]) == worker
    assert int(last[1]) <= 2  # the one that is held, and the one that was when the latest reload came
