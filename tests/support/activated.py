"""Run a command as a service manager does that passes descriptors (sd_listen_fds(3)): ``FD:NAME … -- COMMAND``.

The descriptors are inherited under any number; the command finds them from 3 on.
"""

from __future__ import annotations

import fcntl
import os
import sys

FIRST = 3


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    passed = [argument.split(":", 1) for argument in arguments[:split]]
    # Above all numbers that are wanted first, so that none is overwritten before it has its place.
    moved = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, FIRST + len(passed)) for fd, _ in passed]
    for fd, _ in passed:
        os.close(int(fd))
    for number, fd in enumerate(moved, FIRST):
        os.dup2(fd, number)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(passed))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for _, name in passed)
    os.execvp(arguments[split + 1], arguments[split + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
