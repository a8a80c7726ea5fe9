"""The program that :mod:`tests.support.launcher` runs: it imports the gateway once, then forks for each command.

Its stdin is a socket. A request there is one message of JSON with three descriptors: stdout and stderr of the new
process, and a pipe on which its pid is reported, then its exit status, a line each. Behind these come descriptors that
the process gets as a service manager passes them (sd_listen_fds(3)).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

IMPORTED = (
    "gateway.cli",
    "gateway.config.loader",
    "gateway.cli.run",
    "gateway.cli.running",
    "gateway.processes.worker",
    "gateway.admin.server",
    "gateway.cli.drain",
    "gateway.cli.probe",
)
"""Pydantic is among it, so these gateways read their configuration themselves."""

MOST_BYTES = 256 * 1024
MOST_DESCRIPTORS = 253
"""In one message: SCM_MAX_FD of the kernel."""

FIRST_PASSED = 3
HIGH = 400
"""Above all numbers that descriptors have here or are to have."""


def main() -> None:
    """Serve requests until the socket is closed. In each new process, this returns when its command has ended."""
    for module in IMPORTED:
        importlib.import_module(module)
    _build_validators()
    requests = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    woken, wake = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    reports: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report_ends(reports)
        if requests not in ready:
            continue
        data, fds, _, _ = socket.recv_fds(requests, MOST_BYTES, MOST_DESCRIPTORS)
        if not data:
            requests.close()
            return
        report = fds.pop(2)
        if pid := os.fork():
            os.write(report, b"%d\n" % pid)
            for fd in fds:
                os.close(fd)
            reports[pid] = report
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH) for fd in fds]
        for fd in (requests.detach(), woken, wake, report, *reports.values(), *fds):
            os.close(fd)
        _become(json.loads(data), moved)
        sys.modules["gateway.cli"].main()
        return


def _build_validators() -> None:
    """Have pydantic build what it otherwise builds when it first reads: half of what a forked gateway's start takes.

    Reading also imports what is imported then.
    """
    from gateway.config import load
    from gateway.config.section import Section

    sections = [Section]
    while sections:
        section = sections.pop()
        section.model_rebuild()
        sections += section.__subclasses__()
    load(str(Path(sys.modules["gateway"].__path__[0], "demo", "gateway.yaml")))


def _report_ends(reports: dict[int, int]) -> None:
    """Report the exit status of each process that has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            report = reports.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
            os.close(report)


def _become(request: dict[str, Any], fds: list[int]) -> None:
    """Take over what a process that was executed would have been given."""
    os.setsid()
    for number, fd in zip((1, 2, *range(FIRST_PASSED, HIGH)), fds, strict=False):
        os.dup2(fd, number)
        os.close(fd)
    if request["descriptors"] is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["descriptors"],) * 2)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    if names := request["passed"]:
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDS"] = str(len(names))
        os.environ["LISTEN_FDNAMES"] = ":".join(names)
    sys.argv = ["gateway", *request["arguments"]]


if __name__ == "__main__":
    main()
