"""The pace of the machine while a test runs: a gateway may be as much slower than it should as everything else is.

What is to be quick is compared with a limit times ``slowdown``: about 1 where the machine has nothing else to do.
"""

from __future__ import annotations

import sys
from types import TracebackType

from tests.support.deadline import SCALE
from tests.support.process import Process

_PROGRAM = """\
import signal, time
STEP, WORK = 0.01, 0.001
worst, on = STEP, True
def end(*_):
    global on
    on = False
signal.signal(signal.SIGTERM, end)
print("started", flush=True)
while on:
    start = time.monotonic()
    time.sleep(STEP - WORK)
    done = time.thread_time() + WORK
    while time.thread_time() < done:
        pass
    worst = max(worst, time.monotonic() - start)
print(worst / STEP)
"""


class Pace:
    """Watches the machine in ``async with``: a process of its own wakes up every 10 ms, and works for one."""

    slowdown: float
    """known in the end: how much longer the slowest step took than it should have, times ``SCALE``"""

    async def __aenter__(self) -> Pace:
        self._process = await Process.start(sys.executable, "-c", _PROGRAM, name="pace")
        await self._process.stdout.containing("started")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._process.end()
        if kind is None:
            self.slowdown = SCALE * float(self._process.stdout.lines[-1])
