"""The service manager's descriptor store: what a process hands to it is still there when that process has died.

systemd's ``FDSTORE=1`` (sd_notify(3)): a datagram to the socket that ``NOTIFY_SOCKET`` names brings a descriptor and a
name for it; whoever is started next gets all of them, by number and name, as sd_listen_fds(3) tells. The manager
answers nothing, and drops what is beyond ``FileDescriptorStoreMax=``. ``FDSTORE`` in the environment says that there
is a store, and for how many descriptors: systemd sets it from version 254 on, the unit does it for those before.
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
"""Between two attempts while nobody is at the manager's socket, as when the manager itself is upgraded."""

_FULL = (EAGAIN, EINTR, ENOBUFS, ENOMEM, ETOOMANYREFS)
log = logging.getLogger("gateway")


class ManagerStore:
    """The way into the store. No method waits but those that say so, and none fails."""

    def __init__(self, address: str, most: int, loop: asyncio.AbstractEventLoop, names: Iterable[str] = ()) -> None:
        """
        :param address: of the manager's socket
        :param most: how many descriptors it keeps
        :param names: of what it has already: each is of one descriptor
        """
        self._address = address
        self.most = most
        self._loop = loop
        self._names = set(names)
        self._unsent: deque[tuple[str, int]] = deque()
        """messages, and the descriptor that goes along: a duplicate, or -1"""
        self._timer: asyncio.TimerHandle | None = None
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._failing = False

    @property
    def room(self) -> int:
        """How many descriptors more the manager keeps."""
        return self.most - len(self._names)

    @property
    def names(self) -> frozenset[str]:
        """Of what is in store, or on its way there."""
        return frozenset(self._names)

    @property
    def settled(self) -> bool:
        """Whether the manager can know everything."""
        return not self._unsent

    def put(self, name: str, fd: int) -> None:
        """Have a descriptor kept. The caller's own may be closed at once.

        :param name: one that is not in store; 255 characters at most, with no colon and no control character
        :raises OSError: there is none left for a duplicate
        """
        # Without FDPOLL=0 the manager lets go of a descriptor with an error or a hang-up: of a tunnel's connection that
        # its peer has ended, for one, which the other side of the tunnel still has to be told of.
        self._unsent.append((f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", os.dup(fd)))
        self._names.add(name)
        self._send()

    def remove(self, name: str) -> None:
        """Have what has this name kept no longer."""
        if name in self._names:
            self._names.discard(name)
            self._unsent.append((f"FDSTOREREMOVE=1\nFDNAME={name}", -1))
            self._send()

    async def sent(self, seconds: float) -> bool:
        """Wait, for some time at most, until the manager can know everything; whether it can."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_sent.wait(), seconds)
        return self.settled

    def close(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        for _, fd in self._unsent:
            if fd >= 0:
                os.close(fd)
        self._unsent.clear()

    def _send(self) -> None:
        if self._timer is not None:
            return  # the order is kept
        while self._unsent:
            message, fd = self._unsent[0]
            try:
                self._send_one(message, fd)
            except OSError as error:
                self._all_sent.clear()
                full = error.errno in _FULL
                if not full and not self._failing:
                    log.warning("the service manager cannot be given descriptors (NOTIFY_SOCKET): %s", error)
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
    """How many descriptors the service manager keeps for this process; 0 if it has no store."""
    most = environ.get("FDSTORE", "")
    if manager_address(environ) is None or not (most.isascii() and most.isdecimal()):
        return 0
    return int(most)


def take_passed(environ: MutableMapping[str, str]) -> dict[str, list[int]]:
    """Descriptors that the service manager has passed to this process, by name. They are the caller's from now on.

    What says so is removed from the environment: it is not for children.
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
