"""The program that :mod:`tests.support.launcher` runs: it imports the gateway once, then forks for each command.

Its stdin is a socket. A request there is one message of JSON with three descriptors: stdout and stderr of the new
process, and a pipe on which its pid is reported, then its exit status, a line each.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
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


def main() -> None:
    """Serve requests until the socket is closed. In each new process, this returns when its command has ended."""
    for module in IMPORTED:
        importlib.import_module(module)
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
        data, fds, _, _ = socket.recv_fds(requests, MOST_BYTES, 3)
        if not data:
            requests.close()
            return
        stdout, stderr, report = fds
        if pid := os.fork():
            os.write(report, b"%d\n" % pid)
            os.close(stdout)
            os.close(stderr)
            reports[pid] = report
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for fd in (requests.detach(), woken, wake, stdout, stderr, report, *reports.values()):
            os.close(fd)
        _become(json.loads(data))
        sys.modules["gateway.cli"].main()
        return


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


def _become(request: dict[str, Any]) -> None:
    """Take over what a process that was executed would have been given."""
    os.setsid()
    if request["descriptors"] is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["descriptors"],) * 2)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["gateway", *request["arguments"]]


if __name__ == "__main__":
    main()
