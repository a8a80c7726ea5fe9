"""A supervisor is started, and finds what another one has left with the service manager when it died (``keeping.py``).

It may be that workers of that one still run: nothing is touched before the last of them is gone.
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
"""For workers of the supervisor before to hand back their tunnels, and again for those that were killed to be gone."""

_NAME = re.compile(r"(gateway-[0-9a-f]+-)(record|(?:table|lifeline|admin|listen|tunnels)-[0-9]+)")
log = logging.getLogger("gateway")


class StillServed(Exception):
    """A process of the supervisor before runs, and cannot be ended; ``str()`` says which."""


@dataclass
class Kept:
    """What was passed to this process of one gateway: descriptors, by names less what they begin with."""

    prefix: str
    descriptors: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    """as the manager knows them"""

    @property
    def complete(self) -> bool:
        """Whether it can be carried on, as far as names tell."""
        return "record" in self.descriptors and any(self._of("table")) and any(self._of("lifeline"))

    def tunnels(self) -> dict[int, Connections]:
        """Descriptors of their connections, by id: new ones, for the caller to close. What the manager has it keeps."""
        found: dict[int, Connections] = {}
        for _, fd in self._of("tunnels"):
            with contextlib.suppress(OSError):
                for tunnel, connections in journal.read(fd):
                    if tunnel in found:  # somebody died while he sent it again
                        for each in connections:
                            os.close(each)
                    else:
                        found[tunnel] = connections
        return found

    def sockets(self) -> dict[int, socket.socket]:
        """Listening sockets and that of the admin API, by the numbers in their names; they are the caller's."""
        found = {}
        for kind in ("listen", "admin"):
            for number, _ in self._of(kind):
                with contextlib.suppress(OSError):
                    sock = socket.socket(fileno=self.take(f"{kind}-{number}"))
                    sock.setblocking(False)  # Python has to know, too: what it duplicates would be blocking otherwise
                    found[number] = sock
        return found

    def take(self, name: str) -> int:
        """A descriptor that is the caller's from now on. :param name: less what all begin with"""
        return self.descriptors.pop(name)

    def close(self) -> None:
        """Close what nobody has taken."""
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors.clear()

    async def until_unused(self) -> None:
        """Wait until no process of the supervisor before runs. One that does not end is killed.

        :raises StillServed: even that does not help
        """
        for _, lifeline in self._of("lifeline"):
            if await _ends(lifeline, PATIENCE_SECONDS):
                continue
            holders = list(_holders(lifeline))
            log.error("processes of the supervisor before still run after %g s, and are killed", PATIENCE_SECONDS)
            for pid in holders:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if not await _ends(lifeline, PATIENCE_SECONDS):
                raise StillServed(
                    f"processes of the gateway before still run: {', '.join(map(str, holders)) or 'unseen'}"
                )

    def read(self, config: Config) -> tuple[Mirrors, Inheritance]:
        """The table, which is the caller's from now on, and the rest. One of another layout is converted.

        If that supervisor died in an upgrade that changed the layout, its workers have left two tables, or more: they
        become one.

        :raises CannotInherit: the configuration or this program cannot go on with them
        """
        try:
            text = record.read(self.descriptors["record"])
            if not text:
                raise CannotInherit("it had ended")
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
            raise CannotInherit("workers or max_tunnels is not what it was")
        return mirrors, inheritance

    def _take_over(self, before: Inheritance) -> Mirrors:
        """:raises ValueError: a table is missing, or cannot be converted. :raises OSError: there is no room"""
        known = dict(self._of("table"))
        numbers = {before.table, *(number for _, number in before.mirrors)}
        if not numbers <= known.keys():
            raise ValueError("a table is missing")
        # What was there is needed still, to tell the tunnels if nothing comes of it.
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
        """Nobody can carry it on: end its tunnels, and close everything. :param why: for the log"""
        tunnels = self.tunnels()
        told = end_all(tunnels.items(), [fd for _, fd in self._of("table")])
        if tunnels:
            log.error(
                "%d tunnels of the gateway before cannot be carried on, and end (%d sides with a Close frame): %s",
                len(tunnels),
                told,
                why,
            )
        self.close()

    def _of(self, kind: str) -> Iterator[tuple[int, int]]:
        """Numbers and descriptors of one kind."""
        for name, fd in list(self.descriptors.items()):
            head, _, number = name.rpartition("-")
            if head == kind:
                yield int(number), fd


def find(passed: Mapping[str, Iterable[int]]) -> list[Kept]:
    """What belongs to gateways of this program, the latest first. Other descriptors are left alone.

    :param passed: descriptors by name
    """
    found: dict[str, Kept] = {}
    for name, descriptors in passed.items():
        match = _NAME.fullmatch(name)
        if match is None:
            log.warning("a descriptor that the service manager has passed is not used: %s", name)
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
    """Wait until nobody holds the other end of a pipe."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(lifeline, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(lifeline)
    return True


def _holders(lifeline: int) -> Iterator[int]:
    """Processes that hold the writing end of a pipe, as far as this one may see them. The manager has the other end."""
    pipe = f"pipe:[{os.fstat(lifeline).st_ino}]"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(fd) == pipe and _writes(process, fd.name) for fd in (process / "fd").iterdir()):
                yield int(process.name)


def _writes(process: Path, fd: str) -> bool:
    """Whether a descriptor of a process was opened for writing (proc(5))."""
    (flags,) = re.findall(r"^flags:\s*([0-7]+)$", (process / "fdinfo" / fd).read_text(), re.MULTILINE)
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
