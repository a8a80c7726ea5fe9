"""An upgrade in place: this process becomes a new program, and new workers take the place of the old ones.

1. The new program is tried (:func:`try_out`): a fresh interpreter reads the code that is installed now, the
   configuration file and what it would inherit, and exits. What goes wrong there has changed nothing.
2. The supervisor executes it (:func:`execute`), and stays what it was for everybody else: the same process, with the
   same children, sockets and table. If the layout of that is another one now, it makes a new table, in which it mirrors
   what the old workers write (``tunnels/moving/mirrors.py``).
3. New workers start beside the old ones, each in a slot of its own. Should one not start, all of them are ended.
4. Each takes over the tunnels of the one that it replaces, some at a time (:func:`hand_over`), so that each tunnel
   pauses for a moment only, however many there are. A tunnel is served by the old worker, or by the new one, or by
   neither until it is certain which it will be.
5. The old worker finishes what cannot be handed over, which is requests and handshakes in flight; tunnels that these
   become are handed over, too.
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

from gateway.processes.children import exit_status
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
    from gateway.processes.workers import WorkerProcess
    from gateway.tunnels.moving.mirrors import Mirrors

TRY_SECONDS = 30.0
ANSWER_SECONDS = 10.0
"""For a worker to release tunnels, or to take them over."""

FINISH_SECONDS = 30.0
"""For an old worker to finish what cannot be handed over."""

AT_ONCE = 200
"""Tunnels that are handed over together: all of these pause meanwhile."""

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
MOST_SAID = 4000
log = logging.getLogger("gateway")


class NotUpgraded(Exception):
    """The upgrade failed, and everything goes on as before; ``str()`` says why."""


class HandoverFailed(Exception):
    """A worker could not give tunnels to another; ``str()`` says why. They are where they were."""


class Moved(NamedTuple):
    """Tunnels that were handed over together."""

    tunnels: int
    seconds: float
    """for which they were served by nobody, at most"""


# --- the program ------------------------------------------------------------------------------------------------------


def command(path: str, inheritance: int, *more: str) -> list[str]:
    """How the new program is started. :param path: of the configuration. :param inheritance: a descriptor"""
    return [sys.executable, "-P", "-m", "gateway", "run", "-c", path, "--inherit", str(inheritance), *more]


async def try_out(inheritance: Inheritance) -> None:
    """See whether the program that is installed now starts, and can carry on.

    :raises NotUpgraded: it does not, or cannot
    """
    with open(os.memfd_create("gateway-trial"), "w+b") as said:  # noqa: ASYNC230  # it is memory
        try:
            fd = inheritance.write()
        except OSError as error:
            raise NotUpgraded(f"the new program cannot be tried: {error}") from None
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # as for workers
                command(inheritance.path, fd, "--try"),
                pass_fds=(fd, *inheritance.tables()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        except OSError as error:
            raise NotUpgraded(f"the new program cannot be tried: {error}") from None
        finally:
            os.close(fd)
        exiting = asyncio.create_task(exit_status(process))
        try:
            done, _ = await asyncio.wait((exiting,), timeout=TRY_SECONDS)
        finally:
            if not exiting.done():
                process.kill()
        status = await exiting
        if not done:
            raise NotUpgraded(f"the new program did not start within {TRY_SECONDS:.0f} s")
        if status:
            said.seek(max(0, said.seek(0, os.SEEK_END) - MOST_SAID))
            why = said.read().decode("utf-8", "replace").strip() or "it said nothing"
            raise NotUpgraded(f"the new program does not start, it exits with status {status}:\n{why}")


def execute(inheritance: Inheritance) -> NoReturn:
    """Become the new program. Nothing may be done between the moment that the inheritance tells of, and this.

    :raises NotUpgraded: that failed, and nothing has changed
    """
    descriptors = inheritance.descriptors()
    fd = -1
    # A signal that comes before the new program can handle it would end it; so it waits.
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
        raise NotUpgraded(f"the new program cannot be executed: {error}") from None


# --- workers ----------------------------------------------------------------------------------------------------------


async def hand_over(
    old: WorkerProcess, new: WorkerProcess, from_store: DescriptorStore, to_store: DescriptorStore, mirrors: Mirrors
) -> Moved:
    """Have a worker carry on some tunnels of another.

    :param mirrors: converts the rows, where the old one writes a table of another layout
    :returns: how many; none when there are none left that can be handed over
    :raises HandoverFailed: a worker died, or does not answer and was killed; the old one serves them all as before
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
            raise HandoverFailed(f"what the old worker {old.name} has told cannot be read: {error}") from None
        tunnels = [each.id for each in parts]
        if not tunnels:
            return Moved(0, 0.0)
        # Without connections a tunnel is left where it is.
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
    """A worker's next answer; None if it is dead. One that does not answer in time is killed.

    What it said before it died counts: it has done what it says.
    """
    try:
        message = await asyncio.wait_for(worker.answers.get(), ANSWER_SECONDS)
    except TimeoutError:
        log.error("worker %s does not answer, and is killed", worker.name)
        worker.process.kill()
        message = await worker.answers.get()
    if message is None:
        worker.answers.put_nowait(None)
    elif not isinstance(message, kind):
        raise HandoverFailed(f"worker {worker.name} said {message} for an answer")
    return message
