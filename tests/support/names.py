"""A name server of the test's own, for a gateway that is run in a mount namespace where it is the only one.

::

    async with name_server(tmp_path) as names:
        names.known["chat.internal"] = "127.0.0.1"
        gateway = await start_gateway(config, under=names.command())
        names.silent = True                     # from now on it answers nothing, and questions wait

Nothing outside of the namespace changes. Making one takes root: without it, tests that ask for one are skipped.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

_PORT = 53
_HEAD = struct.Struct("!6H")  # RFC 1035 section 4.1.1: id, flags, counts of questions, answers, authorities, others
_A, _IN = 1, 1
_ANSWER, _NO_SUCH_NAME = 0x8180, 0x8183
_TTL_SECONDS = 1


class NameServer(asyncio.DatagramProtocol):
    """Answers questions for addresses with what it knows (RFC 1035)."""

    def __init__(self, mounts: list[tuple[Path, Path]]) -> None:
        self.known: dict[str, str] = {}
        """IPv4 addresses by name"""
        self.silent = False
        self.asked: list[str] = []
        """names, as often as somebody has asked for them"""
        self._mounts = mounts

    def command(self) -> tuple[str, ...]:
        """A command that runs another one where this is the only name server. The process is the other one."""
        mounting = "".join(f"mount --bind {source} {target} && " for source, target in self._mounts)
        return ("unshare", "--mount", "--propagation", "private", "sh", "-c", f'{mounting}exec "$0" "$@"')

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # it is one
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        number, _, _, _, _, _ = _HEAD.unpack_from(data)
        at, labels = _HEAD.size, []
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii"))
            at += 1 + data[at]
        question = data[_HEAD.size : at + 5]
        name, kind = ".".join(labels).lower(), struct.unpack_from("!H", data, at + 1)[0]
        self.asked.append(name)
        if self.silent:
            return
        known = self.known.get(name)
        answer = b""
        if known is not None and kind == _A:
            answer = struct.pack("!HHHIH", 0xC000 | _HEAD.size, _A, _IN, _TTL_SECONDS, 4) + socket.inet_aton(known)
        flags = _ANSWER if known is not None else _NO_SUCH_NAME
        self._transport.sendto(_HEAD.pack(number, flags, 1, bool(answer), 0, 0) + question + answer, address)


@asynccontextmanager
async def name_server(directory: Path) -> AsyncIterator[NameServer]:
    """A name server that answers until it is told to be silent. :param directory: for its files"""
    _skip_without_namespaces()
    host = f"127.53.{os.getpid() >> 8 & 0xFF}.{os.getpid() & 0xFF or 256 >> 1}"  # one for each process of the tests
    files = {"resolv.conf": f"nameserver {host}\n", "nsswitch.conf": "hosts: files dns\n"}
    mounts = []
    for name, text in files.items():
        target = Path("/etc") / name
        if target.exists():  # what is not there has the same meaning, but for resolv.conf, which every machine has
            (directory / name).write_text(text)
            mounts.append((directory / name, target))
    assert any(target.name == "resolv.conf" for _, target in mounts), "this machine has no /etc/resolv.conf"
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(mounts), local_addr=(host, _PORT)
    )
    try:
        yield server
    finally:
        transport.close()


def _skip_without_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("a name server of the test's own takes root: run the tests as root, or with sudo")
    trial = subprocess.run(("unshare", "--mount", "true"), capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"this machine lets root make no mount namespaces: {trial.stderr.strip()}")
