"""Ports that nobody listens on."""

from __future__ import annotations

import random
import socket

# Below what the kernel hands out to connections, so that none of them takes a port between its choice and its use.
_RANGE = range(20_000, 32_000)
_random = random.SystemRandom()
_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A port of ``host`` that nobody listens on, and that this process was not given before."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = _random.choice(_RANGE)
        if port in _given:
            continue
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _given.add(port)
        return port
