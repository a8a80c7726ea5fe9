"""What a new supervisor finds with the service manager after the previous supervisor died (``keeping.py``).

Workers of the previous supervisor may still be running: nothing is touched until the last of them has exited.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.schema import Config
from gateway.processes import journal, record
from gateway.processes.inheritance import CannotInherit, Inheritance
from gateway.processes.keeping import prefix_of
from gateway.tunnels.moving.adoption import Connections
from gateway.tunnels.moving.final_close import end_all
from gateway.tunnels.moving.mirrors import Mirrors

PATIENCE_SECONDS = 10.0
"""How long the previous workers may take to hand back their tunnels, and then how long killed ones may take to exit."""

_NAME = re.compile(r"(gateway-[0-9a-f]+-)(record|(?:table|quotas|lifeline|admin|listen|tunnels)-[0-9]+)")
log = logging.getLogger("gateway")


class StillServed(Exception):
    """A process of the previous supervisor is still running and cannot be killed; ``str()`` says which."""


@dataclass
class Kept:
    """What this process was passed of one gateway: descriptors, by their names without the prefix."""

    prefix: str
    descriptors: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    """full names, as the manager knows them"""

    @property
    def complete(self) -> bool:
        """Whether the gateway can be resumed, judging by the names alone."""
        return "record" in self.descriptors and any(self._of("table")) and any(self._of("lifeline"))

    def tunnels(self) -> dict[int, Connections]:
        """Return new descriptors of the connections, by tunnel id. The caller owns them; the manager keeps its own."""
        found: dict[int, Connections] = {}
        for _, fd in self._of("tunnels"):
            with contextlib.suppress(OSError):
                for tunnel, connections in journal.read(fd):
                    if tunnel in found:  # a supervisor died while rewriting a segment
                        for each in connections:
                            os.close(each)
                    else:
                        found[tunnel] = connections
        return found

    def sockets(self) -> dict[int, socket.socket]:
        """Return the listening sockets and the admin API's, by the numbers in their names. The caller owns them."""
        found = {}
        for kind in ("listen", "admin"):
            for number, _ in self._of(kind):
                with contextlib.suppress(OSError):
                    sock = socket.socket(fileno=self.take(f"{kind}-{number}"))
                    sock.setblocking(False)  # Python must know, or its duplicates would be blocking
                    found[number] = sock
        return found

    def quotas(self) -> int:
        """Take the quotas. :returns: a descriptor, which the caller owns; -1 if there are none"""
        newest = max((number for number, _ in self._of("quotas")), default=None)
        return -1 if newest is None else self.take(f"quotas-{newest}")

    def take(self, name: str) -> int:
        """Take a descriptor; the caller owns it. :param name: without the prefix"""
        return self.descriptors.pop(name)

    def close(self) -> None:
        """Close the descriptors that were not taken."""
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors.clear()

    async def until_unused(self) -> None:
        """Wait until no process of the previous supervisor is running. Kill those that do not exit.

        :raises StillServed: some cannot be killed
        """
        for _, lifeline in self._of("lifeline"):
            if await _ends(lifeline, PATIENCE_SECONDS):
                continue
            holders = list(_holders(lifeline))
            log.error(
                "killing %d processes of the previous supervisor, still running after %g s",
                len(holders),
                PATIENCE_SECONDS,
            )
            for pid in holders:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if not await _ends(lifeline, PATIENCE_SECONDS):
                pids = ", ".join(map(str, holders)) or "unknown"
                raise StillServed(
                    f"processes of the previous gateway still run, and cannot be killed (pids: {pids}): end them first"
                )

    def read(self, config: Config) -> tuple[Mirrors, Inheritance]:
        """Return the table, which the caller owns, and the rest of the state. Other layouts are converted.

        If the supervisor died in an upgrade that changed the layout, its workers have left several tables, which are
        merged into one.

        :raises CannotInherit: this program or the configuration does not fit the saved state
        """
        try:
            text = record.read(self.descriptors["record"])
            if not text:
                raise CannotInherit("that gateway had shut down")
            inheritance = Inheritance.parse(text, alone=True)
            if config.max_tunnels != "auto":
                inheritance.max_tunnels = config.max_tunnels
            mirrors = self._take_over(inheritance)
        except (OSError, ValueError) as error:
            raise CannotInherit(str(error)) from None
        table = mirrors.table
        asked = (config.workers, -(-inheritance.max_tunnels // config.workers))
        if prefix_of(table) != self.prefix or (table.workers, table.rows_per_worker) != asked:
            table.close()
            raise CannotInherit("workers or max_tunnels has changed")
        return mirrors, inheritance

    def _take_over(self, before: Inheritance) -> Mirrors:
        """:raises ValueError: a table is missing, or cannot be converted. :raises OSError: there is no room"""
        known = dict(self._of("table"))
        numbers = {before.table, *(number for _, number in before.mirrors)}
        if not numbers <= known.keys():
            raise ValueError("a table is missing")
        # Keep the originals: if this fails, they are needed to close the tunnels.
        tables = {number: os.dup(known[number]) for number in numbers}
        others = {slot: tables[number] for slot, number in before.mirrors}
        names = (len(before.routes), len(before.backends))
        try:
            return Mirrors.inherit(tables[before.table], before.max_tunnels, lambda: names, (), others)
        except BaseException:
            for fd in tables.values():
                os.close(fd)
            raise

    def abandon(self, why: str) -> None:
        """End the tunnels, since they cannot be resumed, and close everything. :param why: for the log"""
        tunnels = self.tunnels()
        closed = end_all(tunnels.items(), [fd for _, fd in self._of("table")])
        if tunnels:
            log.error(
                "lost %d tunnels of the previous gateway (%d sides were sent a Close frame): %s",
                len(tunnels),
                closed,
                why,
            )
        self.close()

    def _of(self, kind: str) -> Iterator[tuple[int, int]]:
        """Yield the numbers and descriptors of one kind."""
        for name, fd in list(self.descriptors.items()):
            head, _, number = name.rpartition("-")
            if head == kind:
                yield int(number), fd


def find(passed: Mapping[str, Iterable[int]]) -> list[Kept]:
    """Group the descriptors that belong to gateways of this program, the latest gateway first. Others are left alone.

    :param passed: descriptors by name
    """
    found: dict[str, Kept] = {}
    for name, descriptors in passed.items():
        match = _NAME.fullmatch(name)
        if match is None:
            log.warning("ignored an unknown descriptor from the service manager: %s", name)
            continue
        kept = found.setdefault(match[1], Kept(match[1]))
        kept.names.append(name)
        for fd in descriptors:
            if match[2] in kept.descriptors:
                os.close(fd)
            else:
                kept.descriptors[match[2]] = fd
    return sorted(found.values(), key=lambda kept: int(kept.prefix.split("-")[1], 16), reverse=True)


async def _ends(lifeline: int, seconds: float) -> bool:
    """Wait until no process holds the writing end of a pipe; return whether that happened in time."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(lifeline, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(lifeline)
    return True


def _holders(lifeline: int) -> Iterator[int]:
    """Find the processes that hold the writing end of a pipe, as far as this process is allowed to see them."""
    pipe = f"pipe:[{os.fstat(lifeline).st_ino}]"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(fd) == pipe and _writes(process, fd.name) for fd in (process / "fd").iterdir()):
                yield int(process.name)


def _writes(process: Path, fd: str) -> bool:
    """Whether a process has a descriptor open for writing (proc(5))."""
    (flags,) = re.findall(r"^flags:\s*([0-7]+)$", (process / "fdinfo" / fd).read_text(), re.MULTILINE)
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
