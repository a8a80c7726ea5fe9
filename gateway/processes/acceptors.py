"""The listening sockets of one worker: they come from the supervisor, and are accepted on with a configuration."""

from __future__ import annotations

import os
import socket
from errno import EMFILE

from gateway.config.address import Address
from gateway.config.settings import Settings
from gateway.edge.edge import Edge
from gateway.edge.listener import Listener
from gateway.processes.control.messages import NO_DESCRIPTOR, Listen


class Acceptors:
    """The listeners of one worker, by address."""

    def __init__(self) -> None:
        self.accepting = False
        """whether connections are accepted now"""
        self._listeners: dict[Address, Listener] = {}
        self._new: list[Listen] = []
        """sockets that came since a configuration was put in force"""

    def add(self, socket_: Listen) -> None:
        """Have a socket for the next configuration."""
        self._new.append(socket_)

    def check(self, config: Settings) -> None:
        """:raises OSError: there is no socket for an address of the configuration: it got lost on its way here"""
        there = self._listeners.keys() | {new.address for new in self._new if new.fd != NO_DESCRIPTOR}
        for listener in config.listen:
            if listener.address not in there:
                raise OSError(EMFILE, "no descriptor is left for a listening socket", str(listener.address))

    def use(self, edge: Edge) -> None:
        """The configuration that sockets came for is in force."""
        for new in self._new:
            if new.fd != NO_DESCRIPTOR:
                listener = self._listeners[new.address] = Listener(edge, socket.socket(fileno=new.fd))
                if self.accepting:
                    listener.start()
        self._new.clear()

    def give_up(self, address: Address) -> None:
        """Accept what waits at an address, and then no more."""
        if address in self._listeners:
            self._listeners.pop(address).give_up()
        for new in [new for new in self._new if new.address == address]:
            self._new.remove(new)
            if new.fd != NO_DESCRIPTOR:
                os.close(new.fd)

    def accept(self, accept: bool) -> None:
        """Begin to accept connections, or stop."""
        self.accepting = accept
        for listener in self._listeners.values():
            if accept:
                listener.start()
            else:
                listener.stop()

    def close(self) -> None:
        """Close the sockets at once, so that a new gateway can have their addresses."""
        for listener in self._listeners.values():
            listener.close()
