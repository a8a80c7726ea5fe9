"""The service manager's descriptor store, which keeps descriptors open after the process that sent them has died.

This is systemd's ``FDSTORE=1`` (sd_notify(3)): a datagram to the socket that ``NOTIFY_SOCKET`` names carries a
descriptor and a name for it. The next process that the manager starts gets all of them, by number and name
(sd_listen_fds(3)). The manager sends no replies, and drops descriptors beyond ``FileDescriptorStoreMax=``. ``FDSTORE``
in the environment says that there is a store, and its size: systemd sets it since version 254; for older versions the
unit file does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, MutableMapping
from errno import EAGAIN, EINTR, ENOBUFS, ENOMEM, ETOOMANYREFS

from gateway.processes.notify import manager_address

FIRST_FD = 3
"""The first descriptor that a service manager passes (SD_LISTEN_FDS_START)."""

RETRY_SECONDS = 0.02
ABSENT_SECONDS = 1.0
"""Between two attempts while the manager's socket is absent, for example while the manager itself is upgraded."""

_FULL = (EAGAIN, EINTR, ENOBUFS, ENOMEM, ETOOMANYREFS)
log = logging.getLogger("gateway")


class ManagerStore:
    """Access to the store. Methods do not wait unless they say so. Sending does not fail: it is retried."""

    def __init__(self, address: str, most: int, loop: asyncio.AbstractEventLoop, names: Iterable[str] = ()) -> None:
        """
        :param address: of the manager's socket
        :param most: how many descriptors it keeps
        :param names: of the descriptors that it already has, one name each
        """
        self._address = address
        self.most = most
        self._loop = loop
        self._names = set(names)
        self._unsent: deque[tuple[str, int]] = deque()
        """messages, each with its descriptor: a duplicate, or -1 for none"""
        self._timer: asyncio.TimerHandle | None = None
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._failing = False

    @property
    def room(self) -> int:
        """How many more descriptors the manager can keep."""
        return self.most - len(self._names)

    @property
    def names(self) -> frozenset[str]:
        """Names of descriptors that are stored or in flight."""
        return frozenset(self._names)

    @property
    def settled(self) -> bool:
        """Whether everything has been sent to the manager."""
        return not self._unsent

    def put(self, name: str, fd: int) -> None:
        """Store a descriptor. The caller may close its own at once.

        :param name: not in use yet; at most 255 characters, without colons and control characters
        :raises OSError: no descriptor is left for a duplicate
        """
        # Without FDPOLL=0 the manager drops a descriptor on an error or hang-up: for example a tunnel's connection
        # whose peer has closed, while the other side of the tunnel still has to get a Close frame.
        self._unsent.append((f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", os.dup(fd)))
        self._names.add(name)
        self._send()

    def remove(self, name: str) -> None:
        """Remove the descriptor with this name."""
        if name in self._names:
            self._names.discard(name)
            self._unsent.append((f"FDSTOREREMOVE=1\nFDNAME={name}", -1))
            self._send()

    async def sent(self, seconds: float) -> bool:
        """Wait up to some seconds until everything has been sent to the manager; return whether it has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_sent.wait()
        return self.settled

    def close(self) -> None:
        """Stop sending, and drop what is pending."""
        if self._timer is not None:
            self._timer.cancel()
        for _, fd in self._unsent:
            if fd >= 0:
                os.close(fd)
        self._unsent.clear()

    def _send(self) -> None:
        if self._timer is not None:
            return  # keep the order
        while self._unsent:
            message, fd = self._unsent[0]
            try:
                self._send_one(message, fd)
            except OSError as error:
                self._all_sent.clear()
                full = error.errno in _FULL
                if not full and not self._failing:
                    log.warning("cannot send descriptors to the service manager (NOTIFY_SOCKET): %s", error)
                self._failing = not full
                self._timer = self._loop.call_later(RETRY_SECONDS if full else ABSENT_SECONDS, self._retry)
                return
            self._unsent.popleft()
            if fd >= 0:
                os.close(fd)
        self._failing = False
        self._all_sent.set()

    def _retry(self) -> None:
        self._timer = None
        self._send()

    def _send_one(self, message: str, fd: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))] if fd >= 0 else []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendmsg([message.encode()], rights, 0, self._address)


def offered(environ: Mapping[str, str]) -> int:
    """Return how many descriptors the service manager keeps for this process; 0 if it has no store."""
    most = environ.get("FDSTORE", "")
    if manager_address(environ) is None or not (most.isascii() and most.isdecimal()):
        return 0
    return int(most)


def take_passed(environ: MutableMapping[str, str]) -> dict[str, list[int]]:
    """Return the descriptors that the service manager passed to this process, by name. The caller owns them.

    Removes the variables that announce them from the environment, since children must not see these.
    """
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    found: dict[str, list[int]] = {}
    if pid != str(os.getpid()) or not (count.isascii() and count.isdecimal()):
        return found
    each = names.split(":") if names else []
    for fd, name in zip(range(FIRST_FD, FIRST_FD + int(count)), each, strict=False):
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
            found.setdefault(name, []).append(fd)
    return found
