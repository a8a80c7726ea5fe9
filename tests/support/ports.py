"""Ports that nobody listens on."""

from __future__ import annotations

import random
import socket

# Below what the kernel hands out to connections, so that none of them takes a port between its choice and its use.
_BLOCKS = [range(start, start + 200) for start in range(20_000, 32_000, 200)]
_random = random.SystemRandom()
_mine: list[int] = []


def free_port(host: str = "127.0.0.1") -> int:
    """A port of ``host`` that nobody listens on, and that no test in any process was given before."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        if not _mine:
            _mine.extend(_random.sample(block := _block(), len(block)))
        port = _mine.pop()
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        return port


def _block() -> range:
    """Ports that are this process's alone, for as long as it runs: of a block is told by a name that it holds."""
    for block in _random.sample(_BLOCKS, len(_BLOCKS)):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(f"\0upgrade-gateway-tests-{block.start}")
        except OSError:
            holder.close()
        else:
            holder.detach()
            return block
    raise AssertionError("tests hold all ports that there are for them")
