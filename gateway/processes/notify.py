"""What the service manager is told: systemd's notify protocol, sd_notify(3).

A message is one datagram of ``NAME=value`` lines to the unix socket that ``NOTIFY_SOCKET`` names. Nobody answers.
Without that variable nothing is sent.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping

from gateway.admin.state import GatewayState

STATUS_SECONDS = 15.0
"""How often the status is told, at least."""

log = logging.getLogger("gateway")


class _Phase(enum.Enum):
    STARTING = enum.auto()
    READY = enum.auto()
    RELOADING = enum.auto()
    STOPPING = enum.auto()


class Notifier:
    """Tells the service manager what this process does. No method waits, and none fails."""

    def __init__(self, environ: Mapping[str, str], status: Callable[[], str]) -> None:
        """
        :param environ: has ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``, or not
        :param status: one line that says how things are; goes with every message
        """
        self._address = manager_address(environ)
        self._watchdog_seconds = _watchdog_seconds(environ)
        self._status = status
        self._phase = _Phase.STARTING
        self._unsent: tuple[str, ...] = ()
        """what the latest change was, until it could be sent"""
        self._failing = False

    def ready(self) -> None:
        """The gateway accepts connections: it has started, or a reload is over."""
        if self._phase is not _Phase.STOPPING:
            self._enter(_Phase.READY, "READY=1")

    def reloading(self) -> None:
        """A reload begins; :meth:`reloaded` has to follow. One during the start is part of that."""
        if self._phase is _Phase.READY:
            # CLOCK_MONOTONIC: the manager tells by it which of several reloads this is.
            self._enter(_Phase.RELOADING, "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """A reload is over, well or not."""
        if self._phase is _Phase.RELOADING:
            self.ready()

    def stopping(self, seconds: float = 0.0) -> None:
        """The gateway shuts down. :param seconds: how long that may take, if the manager would give it less"""
        if self._phase is not _Phase.STOPPING:
            extend = (f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}",) if seconds else ()
            self._enter(_Phase.STOPPING, "STOPPING=1", *extend)

    async def keep_telling(self) -> None:
        """Tell at an even rate what the status is, and that the loop runs that this is called in."""
        watchdog = [] if self._watchdog_seconds is None else ["WATCHDOG=1"]
        interval = min((self._watchdog_seconds or math.inf) / 2, STATUS_SECONDS)
        while self._address is not None:
            self._send(*watchdog)
            await asyncio.sleep(interval)

    def _enter(self, phase: _Phase, *lines: str) -> None:
        self._phase = phase
        self._unsent = lines
        self._send()

    def _send(self, *lines: str) -> None:
        """Send lines, behind those that could not be sent before."""
        if self._address is None:
            return
        message = "\n".join((*self._unsent, *lines, f"STATUS={self._status()}"))
        try:
            # A new socket each time: the manager may have another one at that address by now.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(message.encode(), self._address)
        except OSError as error:
            if not self._failing:
                log.warning("the service manager cannot be told what happens (NOTIFY_SOCKET): %s", error)
            self._failing = True
        else:
            self._failing = False
            self._unsent = ()


def describe(state: GatewayState) -> str:
    """What ``systemctl status`` shows of a gateway."""
    state.refresh(True)
    tunnels = f"tunnels: {state.table.tunnels()}"
    if state.drain is not None:
        return f"draining; {tunnels} of {state.drain.tunnels} left"
    workers = state.workers
    ready = f"workers: {sum(worker.ready for worker in workers)} of {len(workers)}"
    return f"{ready}; {tunnels}" + ("" if state.last_reload_ok else "; the last reload failed")


def manager_address(environ: Mapping[str, str]) -> str | None:
    """The address of the manager's unix socket: a path, or a name of the abstract namespace, written with ``@`` in
    ``NOTIFY_SOCKET`` (unix(7)). None if there is no manager."""
    name = environ.get("NOTIFY_SOCKET", "")
    if name.startswith("@"):
        return "\0" + name[1:]
    if name and not name.startswith("/"):
        log.warning("NOTIFY_SOCKET is neither a path nor a name with @, and is not used: %s", name)
        return None
    return name or None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """After what silence of this process the manager ends it; None if it does not (sd_watchdog_enabled(3))."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdecimal()):
        return None
    return int(microseconds) / 1e6 or None
