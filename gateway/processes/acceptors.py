"""The listening sockets of one worker. The supervisor sends them; the worker accepts once it has a configuration."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from errno import EMFILE

from gateway.config import settings
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
        """sockets received since the last configuration was applied"""

    def add(self, socket_: Listen) -> None:
        """Keep a socket for the next configuration."""
        self._new.append(socket_)

    def check(self, config: Settings) -> None:
        """:raises OSError: an address of the configuration has no socket, because its descriptor did not arrive"""
        there = self._listeners.keys() | {new.address for new in self._new if new.fd != NO_DESCRIPTOR}
        for listener in config.listen:
            if listener.address not in there:
                raise OSError(EMFILE, "no descriptor left for a listening socket", str(listener.address))

    def use(self, edge: Edge, listen: Iterable[settings.Listener]) -> None:
        """Use the new sockets: the configuration that they were sent for is in force.

        :param listen: how connections are served
        """
        for new in self._new:
            if new.fd != NO_DESCRIPTOR:
                listener = self._listeners[new.address] = Listener(
                    edge.poller, edge.descriptors, edge.accept, socket.socket(fileno=new.fd)
                )
                if self.accepting:
                    listener.start()
        self._new.clear()
        for options in listen:
            if options.address in self._listeners:
                self._listeners[options.address].use(edge.entrance(options))

    def give_up(self, address: Address) -> None:
        """Accept the connections that are waiting at an address, then stop listening there."""
        if address in self._listeners:
            self._listeners.pop(address).give_up()
        for new in [new for new in self._new if new.address == address]:
            self._new.remove(new)
            if new.fd != NO_DESCRIPTOR:
                os.close(new.fd)

    def accept(self, accept: bool) -> None:
        """Start or stop accepting connections."""
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
