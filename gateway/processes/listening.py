"""Listening sockets: the supervisor opens one per worker and keeps them open as long as it lives.

Each worker has its own socket in the address's ``SO_REUSEPORT`` group, so the kernel spreads connections over the
workers. The socket stays open while a worker is replaced: new connections wait for the successor and are never refused.
Unix sockets have no such groups, so all workers share one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Collection, Mapping
from errno import EADDRINUSE

from gateway.config.address import Address

BACKLOG = 4096


class CannotListen(Exception):
    """The gateway cannot listen on an address; ``str()`` says which, why and what to do."""


class Listeners:
    """The listening sockets of one gateway: one per worker, by address."""

    def __init__(self, workers: int) -> None:
        self.sockets: dict[Address, list[socket.socket]] = {}
        self._workers = workers

    def open(self, addresses: Collection[Address]) -> dict[Address, list[socket.socket]]:
        """Open sockets for addresses that have none yet. The caller then passes them to :meth:`add`, or closes them.

        :raises CannotListen: one address is not available; no socket is opened then
        """
        opened: dict[Address, list[socket.socket]] = {}
        try:
            for address in addresses:
                if address not in self.sockets:
                    opened[address] = listen(address, self._workers, (*self.sockets, *opened))
        except CannotListen:
            _close(opened)
            raise
        return opened

    def add(self, opened: Mapping[Address, list[socket.socket]]) -> None:
        """Take ownership of these sockets."""
        self.sockets.update(opened)

    def close(self, addresses: Collection[Address] | None = None, forget: bool = True) -> None:
        """Close the sockets of some addresses, or of all.

        :param forget: remove the files of unix sockets
        """
        _close(
            {each: self.sockets.pop(each) for each in list(self.sockets if addresses is None else addresses)}, forget
        )


def _close(sockets: Mapping[Address, list[socket.socket]], forget: bool = True) -> None:
    for address, each in sockets.items():
        for sock in each:
            sock.close()
        if forget:
            forget_unix_socket(address)


def listen(address: Address, workers: int, ours: Collection[Address] = ()) -> list[socket.socket]:
    """Open one non-blocking listening socket per worker.

    :param ours: addresses that this gateway already listens on
    :raises CannotListen: the address is taken, not of this machine, or not permitted
    """
    try:
        if address.path is not None:
            shared = _listen_unix(address.path)
            return [shared, *(shared.dup() for _ in range(workers - 1))]
        # Addresses may overlap, like 127.0.0.1 and 0.0.0.0. If we listen on this port already, the check would find us.
        if all(address.port != other.port for other in ours):
            _refuse_if_taken(address)
        return [_listen_tcp(address, reuse_port=True) for _ in range(workers)]
    except OSError as error:
        hint = (
            "is another gateway running?"
            if error.errno == EADDRINUSE
            else "see listen: and admin: in the configuration"
        )
        raise CannotListen(f"cannot listen on {address}: {error.strerror} ({hint})") from error


def listen_alone(address: Address) -> socket.socket:
    """Open one listening socket outside any ``SO_REUSEPORT`` group.

    :raises CannotListen: as :func:`listen`
    """
    try:
        if address.path is not None:
            return _listen_unix(address.path)
        return _listen_tcp(address, reuse_port=False)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror}") from error


def forget_unix_socket(address: Address) -> None:
    """Remove the file of a unix socket that is no longer in use."""
    if address.path is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.path)


def _refuse_if_taken(address: Address) -> None:
    """Otherwise a second gateway of the same user could join the group and silently take half the connections."""
    _listen_tcp(address, reuse_port=False).close()


def _listen_tcp(address: Address, reuse_port: bool) -> socket.socket:
    host = "" if address.host in (None, "*") else address.host
    family = socket.AF_INET6 if ":" in (host or "") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Like nginx and Envoy: [::] means IPv6 only, so 0.0.0.0 can be configured beside it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, address.port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove a stale socket file, left behind by a gateway that was killed; never one in use, nor any other file."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
