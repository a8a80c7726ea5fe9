"""A stand-in for systemd that keeps descriptors: ``FDSTORE=1`` and ``FDSTOREREMOVE=1`` of sd_notify(3).

As systemd does it: one name may be of several descriptors; of one that it has already, whatever its name, it takes no
second; beyond the maximum it drops what comes, and says nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from pathlib import Path
from typing import Any

from gateway.processes import journal
from tests.support.notify import Message, parsed

ACTIVATED = Path(__file__).with_name("activated.py")
MOST_FDS = 768


class DescriptorKeeper:
    """A service manager's end, while an event loop runs."""

    def __init__(self, address: Path, most: int, said: int | None = None) -> None:
        """
        :param address: a path
        :param most: ``FileDescriptorStoreMax=``
        :param said: what the service is told of that, if it is not the truth
        """
        self.environ = {"NOTIFY_SOCKET": str(address), "FDSTORE": str(most if said is None else said)}
        self.most = most
        self.kept: list[tuple[str, int]] = []
        self.told: list[Message] = []
        """messages that are not about descriptors"""
        self.names_seen: list[str] = []
        """of everything that was ever to be kept"""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(address))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    @property
    def names(self) -> list[str]:
        """Of what is kept."""
        return [name for name, _ in self.kept]

    def of_kind(self, kind: str) -> list[int]:
        """Descriptors whose names end with this, or with this and a number."""
        return [fd for name, fd in self.kept if name.rstrip("0123456789").rstrip("-").endswith(kind)]

    def tunnels(self) -> int:
        """Tunnels whose connections are kept, those that have ended and are there still included."""
        found = set()
        for segment in self.of_kind("tunnels"):
            for tunnel, connections in journal.read(segment):
                found.add(tunnel)
                for fd in connections:
                    os.close(fd)
        return len(found)

    def start_options(self) -> dict[str, Any]:
        """For ``Gateway.start``: what makes a service find what is kept."""
        return {"env": self.environ, "passed": self.kept}

    def pause(self) -> None:
        """Read nothing until :meth:`go_on`."""
        self._loop.remove_reader(self._socket)

    def go_on(self) -> None:
        """Read again."""
        self._loop.add_reader(self._socket, self._read)

    def forget_all(self) -> None:
        """The service is stopped: nothing is kept any more."""
        for _, fd in self.kept:
            os.close(fd)
        self.kept.clear()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self.forget_all()

    def _read(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    65536, socket.CMSG_SPACE(MOST_FDS * 4), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            fds = array("i")
            for _, _, payload in ancillary:
                fds.frombytes(payload)
            message = parsed(data)
            if message.get("FDSTORE") == "1":
                self._keep(message, fds)
            elif message.get("FDSTOREREMOVE") == "1":
                for name, fd in [each for each in self.kept if each[0] == message["FDNAME"]]:
                    self.kept.remove((name, fd))
                    os.close(fd)
            else:
                self.told.append(message)
                for fd in fds:
                    os.close(fd)

    def _keep(self, message: Message, fds: array[int]) -> None:
        name = message["FDNAME"]
        assert len(name) <= 255
        assert not any(ord(c) < 32 or c == ":" for c in name)
        assert message.get("FDPOLL") == "0", "it would be thrown out when its connection hangs up"
        self.names_seen.append(name)
        for fd in fds:
            if len(self.kept) >= self.most or any(os.path.sameopenfile(fd, other) for _, other in self.kept):
                os.close(fd)
            else:
                self.kept.append((name, fd))
