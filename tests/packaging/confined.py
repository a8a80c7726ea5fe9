"""Runs a command under what a unit of systemd's has the kernel refuse, as far as that takes no service manager.

``python -m tests.packaging.confined UNIT COMMAND …``: the system call filter, the address families, no memory that is
both written and run, the limit of descriptors and the umask. It needs ``systemd-analyze``, which knows what the names
stand for, and libseccomp.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import socket
import subprocess
import sys
from errno import EPERM
from pathlib import Path

from tests.packaging.unit import Unit

SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_ACT_ERRNO = 0x00050000
SCMP_CMP_EQ = 4
SCMP_CMP_MASKED_EQ = 7
SHM_EXEC = 0o100000
LIBSECCOMP = "libseccomp.so.2"


class _Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def system_calls(unit: Unit) -> set[str]:
    """The names that its ``SystemCallFilter=`` lets through."""
    allowed: set[str] = set()
    for line in unit.all("Service", "SystemCallFilter"):
        names = {name for word in line.removeprefix("~").split() for name in _expand(word)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    # systemd lets these through always: without them nothing starts.
    return allowed | _expand("@default")


def _expand(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in done.stdout.splitlines()[1:]]
    return {each for line in lines if line and not line.startswith("#") for each in _expand(line)}


def confine(unit: Unit) -> None:
    """Confine this process, and whatever it starts. :raises OSError: the kernel cannot"""
    limit = min(int(unit.one("Service", "LimitNOFILE")), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.umask(int(unit.one("Service", "UMask"), 8))
    names = system_calls(unit)
    if unit.one("Service", "MemoryDenyWriteExecute") == "yes":
        _refuse_new_code()
    _allow(names, [getattr(socket, name) for name in unit.one("Service", "RestrictAddressFamilies").split()])


def _refuse_new_code() -> None:
    """As systemd does: no mapping that is both written and run, and none that becomes one that is run."""
    both = mmap.PROT_WRITE | mmap.PROT_EXEC
    rules = (("mmap", both), ("mprotect", mmap.PROT_EXEC), ("pkey_mprotect", mmap.PROT_EXEC), ("shmat", SHM_EXEC))
    filter = _Filter(SCMP_ACT_ALLOW)
    for name, flags in rules:
        filter.add(SCMP_ACT_ERRNO | EPERM, name, _Comparison(2, SCMP_CMP_MASKED_EQ, flags, flags))
    filter.load()


def _allow(names: set[str], families: list[int]) -> None:
    filter = _Filter(SCMP_ACT_ERRNO | EPERM)
    for name in names - {"socket"}:
        filter.add(SCMP_ACT_ALLOW, name)
    for family in families:
        filter.add(SCMP_ACT_ALLOW, "socket", _Comparison(0, SCMP_CMP_EQ, family, 0))
    filter.load()


class _Filter:
    """A filter of system calls (seccomp_rule_add(3))."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL(LIBSECCOMP)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, name: str, *comparisons: _Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # names of other architectures have negative numbers
            array = (_Comparison * len(comparisons))(*comparisons)
            _check(
                self._library.seccomp_rule_add_array(
                    self._context, ctypes.c_uint32(action), number, len(comparisons), array
                )
            )

    def load(self) -> None:
        _check(self._library.seccomp_load(self._context))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


if __name__ == "__main__":
    confine(Unit.read(Path(sys.argv[1])))
    os.execvp(sys.argv[2], sys.argv[2:])
