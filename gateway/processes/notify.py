"""Reports to the service manager: systemd's notify protocol, sd_notify(3).

A message is one datagram of ``NAME=value`` lines to the unix socket that ``NOTIFY_SOCKET`` names. There is no reply.
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
"""The status is sent at least this often."""

log = logging.getLogger("gateway")


class _Phase(enum.Enum):
    STARTING = enum.auto()
    READY = enum.auto()
    RELOADING = enum.auto()
    STOPPING = enum.auto()


class Notifier:
    """Reports this process's state to the service manager. Methods neither wait nor fail."""

    def __init__(self, environ: Mapping[str, str], status: Callable[[], str]) -> None:
        """
        :param environ: may have ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``
        :param status: returns one line about the gateway's state, sent with every message
        """
        self._address = manager_address(environ)
        self._watchdog_seconds = _watchdog_seconds(environ)
        self._status = status
        self._phase = _Phase.STARTING
        self._unsent: tuple[str, ...] = ()
        """the latest change of phase, until it has been sent"""
        self._failing = False

    def ready(self) -> None:
        """Report that the gateway accepts connections: it has started, or a reload is over."""
        if self._phase is not _Phase.STOPPING:
            self._enter(_Phase.READY, "READY=1")

    def reloading(self) -> None:
        """Report that a reload begins; :meth:`reloaded` must follow. A reload during startup is not reported."""
        if self._phase is _Phase.READY:
            # CLOCK_MONOTONIC: the manager uses it to tell several reloads apart.
            self._enter(_Phase.RELOADING, "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Report that a reload is over, whether it succeeded or not."""
        if self._phase is _Phase.RELOADING:
            self.ready()

    def stopping(self, seconds: float = 0.0) -> None:
        """Report the shutdown. :param seconds: how long it may take, to extend the manager's time-out; 0 for as is"""
        if self._phase is not _Phase.STOPPING:
            extend = (f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}",) if seconds else ()
            self._enter(_Phase.STOPPING, "STOPPING=1", *extend)

    async def keep_reporting(self) -> None:
        """Report the status at regular intervals and feed the watchdog, which shows that the event loop is running."""
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
        """Send lines, after those that could not be sent before."""
        if self._address is None:
            return
        message = "\n".join((*self._unsent, *lines, f"STATUS={self._status()}"))
        try:
            # A new socket each time: the manager may have been restarted, with a new socket at that address.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(message.encode(), self._address)
        except OSError as error:
            if not self._failing:
                log.warning("cannot notify the service manager (NOTIFY_SOCKET): %s", error)
            self._failing = True
        else:
            self._failing = False
            self._unsent = ()


def describe(state: GatewayState) -> str:
    """Return the status line of a gateway that ``systemctl status`` shows."""
    state.refresh(True)
    tunnels = f"tunnels: {state.table.tunnels()}"
    if state.drain is not None:
        return f"draining; {tunnels} of {state.drain.tunnels} left"
    workers = state.workers
    ready = f"workers: {sum(worker.ready for worker in workers)} of {len(workers)}"
    return f"{ready}; {tunnels}" + ("" if state.last_reload_ok else "; the last reload failed")


def manager_address(environ: Mapping[str, str]) -> str | None:
    """Return the address of the manager's unix socket, or None if there is no manager. It is a path, or a name in the
    abstract namespace, written with ``@`` in ``NOTIFY_SOCKET`` (unix(7))."""
    name = environ.get("NOTIFY_SOCKET", "")
    if name.startswith("@"):
        return "\0" + name[1:]
    if name and not name.startswith("/"):
        log.warning("ignored NOTIFY_SOCKET, which is neither a path nor a name with @: %s", name)
        return None
    return name or None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog's time-out, or None if there is no watchdog (sd_watchdog_enabled(3))."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdecimal()):
        return None
    return int(microseconds) / 1e6 or None
