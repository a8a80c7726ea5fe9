"""An upgrade in place: this process runs a new program, and new workers replace the old ones.

1. Trial run (:func:`try_out`): a fresh interpreter loads the installed code, the configuration file and the state that
   it would inherit, and exits. A failure here changes nothing.
2. The supervisor executes the new program (:func:`execute`). From outside nothing changes: it is the same process, with
   the same children, sockets and table. If the table's layout has changed, the new program makes a new table, in which
   it mirrors what the old workers write (``tunnels/moving/mirrors.py``).
3. New workers start beside the old ones, each in its own slot. If one does not start, all new workers are ended.
4. Each new worker takes over the tunnels of the worker that it replaces, in batches (:func:`hand_over`), so each tunnel
   pauses only briefly, however many there are. At any time a tunnel is served by the old worker, or by the new one, or
   by neither while it is undecided which it will be.
5. The old worker finishes what cannot be handed over: requests and handshakes in flight. Tunnels that these open are
   handed over, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from gateway.processes.children import Child, exit_status
from gateway.processes.control.messages import (
    NO_DESCRIPTOR,
    Forget,
    Message,
    Release,
    Released,
    Resume,
    TakenOver,
    TakeOver,
)
from gateway.processes.inheritance import Inheritance
from gateway.tunnels.moving import parcel
from gateway.tunnels.table.slots import disown

if TYPE_CHECKING:
    from gateway.processes.fdstore import DescriptorStore
    from gateway.processes.worker_process import WorkerProcess
    from gateway.tunnels.moving.mirrors import Mirrors

TRY_SECONDS = 30.0
ANSWER_SECONDS = 10.0
"""How long a worker may take to release tunnels, or to take them over."""

FINISH_SECONDS = 30.0
"""How long an old worker may take to finish what cannot be handed over."""

AT_ONCE = 200
"""Tunnels that are handed over in one batch; all of them pause meanwhile."""

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
MAX_OUTPUT_BYTES = 4000
log = logging.getLogger("gateway")


class NotUpgraded(Exception):
    """The upgrade failed, and the old program goes on; ``str()`` says why."""


class HandoverFailed(Exception):
    """Tunnels could not be handed over and stay with the old worker; ``str()`` says why."""


class Moved(NamedTuple):
    """Tunnels that were handed over together."""

    tunnels: int
    seconds: float
    """longest time for which no worker served them"""


# --- the program ------------------------------------------------------------------------------------------------------


def command(path: str, inheritance: int, *more: str) -> list[str]:
    """Return the new program's command line. :param path: of the configuration. :param inheritance: a descriptor"""
    return [sys.executable, "-P", "-m", "gateway", "run", "-c", path, "--inherit", str(inheritance), *more]


async def try_out(inheritance: Inheritance) -> None:
    """Check that the installed program starts and can take over.

    :raises NotUpgraded: it does not, or cannot
    """
    with open(os.memfd_create("gateway-trial"), "w+b") as output:  # noqa: ASYNC230  # it is memory
        try:
            fd = inheritance.write()
        except OSError as error:
            raise NotUpgraded(f"cannot start a trial run of the new program: {error}") from None
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # it takes a millisecond, and no traffic is served here
                command(inheritance.path, fd, "--try"),
                pass_fds=(fd, *inheritance.tables()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                process_group=0,
            )
        except OSError as error:
            raise NotUpgraded(f"cannot start a trial run of the new program: {error}") from None
        finally:
            os.close(fd)
        child = Child.of(process)
        exiting = asyncio.create_task(exit_status(child))
        try:
            done, _ = await asyncio.wait((exiting,), timeout=TRY_SECONDS)
        finally:
            if not exiting.done():
                os.killpg(child.pid, signal.SIGKILL)  # with the process that reads the configuration for it
        status = await exiting
        if not done:
            raise NotUpgraded(f"the new program did not start within {TRY_SECONDS:.0f} s")
        if status:
            output.seek(max(0, output.seek(0, os.SEEK_END) - MAX_OUTPUT_BYTES))
            why = output.read().decode("utf-8", "replace").strip() or "it printed nothing"
            raise NotUpgraded(f"the new program does not start (exit status {status}):\n{why}")


def execute(inheritance: Inheritance) -> NoReturn:
    """Execute the new program in this process. Nothing may change between collecting the inheritance and this call.

    :raises NotUpgraded: that failed, and nothing has changed
    """
    descriptors = inheritance.descriptors()
    fd = -1
    # A signal that arrives before the new program can handle it would kill it, so block signals until then.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        fd = inheritance.write()
        descriptors.append(fd)
        for each in descriptors:
            os.set_inheritable(each, True)
        sys.stdout.flush()
        sys.stderr.flush()
        arguments = command(inheritance.path, fd)
        os.execv(arguments[0], arguments)
    except OSError as error:
        for each in descriptors:
            os.set_inheritable(each, False)
        if fd >= 0:
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        raise NotUpgraded(f"cannot execute the new program: {error}") from None


# --- workers ----------------------------------------------------------------------------------------------------------


async def hand_over(
    old: WorkerProcess, new: WorkerProcess, from_store: DescriptorStore, to_store: DescriptorStore, mirrors: Mirrors
) -> Moved:
    """Hand over one batch of tunnels from one worker to another.

    :param mirrors: converts the rows if the old worker writes a table of another layout
    :returns: how many; 0 when none are left that can be handed over
    :raises HandoverFailed: a worker died, or did not answer and was killed; the old worker keeps the tunnels
    """
    with from_store.unsettled(), to_store.unsettled():
        return await _hand_over(old, new, from_store, to_store, mirrors)


async def _hand_over(
    old: WorkerProcess, new: WorkerProcess, from_store: DescriptorStore, to_store: DescriptorStore, mirrors: Mirrors
) -> Moved:
    began = time.monotonic()
    old.channel.send(Release(AT_ONCE))
    released = await _answer(old, Released)
    if released is None:
        raise HandoverFailed(f"the old worker {old.name} died or hung")
    assert isinstance(released, Released)
    try:
        try:
            parts = parcel.unpack(released.fd)
            stay = mirrors.moving(old.slot, released.fd, parts)
        except (OSError, ValueError) as error:
            old.channel.send(Resume())
            raise HandoverFailed(f"cannot read the tunnels that the old worker {old.name} released: {error}") from None
        tunnels = [each.id for each in parts]
        if not tunnels:
            return Moved(0, 0.0)
        # A tunnel without stored connections stays where it is.
        moved = from_store.give_up(tunnel for tunnel in tunnels if tunnel not in stay)
        to_store.hand_over(moved)
        new.channel.send(TakeOver(released.fd))
    finally:
        if released.fd != NO_DESCRIPTOR:
            os.close(released.fd)
    taken = await _answer(new, TakenOver)
    if taken is None:
        disown(mirrors.table, new.slot, frozenset(tunnels))
        from_store.restore(to_store.give_up(tunnels))
        old.channel.send(Resume())
        raise HandoverFailed(f"the new worker {new.name} died or hung")
    assert isinstance(taken, TakenOver)
    from_store.restore(to_store.give_up(taken.left))
    old.channel.send(Forget(taken.left))
    return Moved(len(tunnels), time.monotonic() - began)


async def _answer(worker: WorkerProcess, kind: type[Message]) -> Message | None:
    """Return a worker's next answer, or None if it is dead. A worker that does not answer in time is killed.

    An answer sent before the worker died counts: the worker has done what it says.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            message = await worker.answers.get()
    except TimeoutError:
        log.error("worker %s does not answer; killing it", worker.name)
        worker.process.kill()
        message = await worker.answers.get()
    if message is None:
        worker.answers.put_nowait(None)
    elif not isinstance(message, kind):
        raise HandoverFailed(f"worker {worker.name} sent an unexpected answer: {message}")
    return message
