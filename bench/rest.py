"""A proxy that does nothing: the scenario of the memory that it takes before it has any work.

`python -m bench.rest [WORKERS]` prints that of each process of the gateway, what its start takes, and how long a worker
is missing that was killed. To compare with another program, run it in that one's directory, or with its interpreter.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.cpu import proportional_bytes
from bench.instance import Instance
from bench.process import free_port
from bench.scenario import Figures, Settings

MB = 1_000_000
REST_SECONDS = 3.0
TICKS = os.sysconf("SC_CLK_TCK")
CONFIGURATION = """
workers: {workers}
listen: [{{address: "127.0.0.1:{port}"}}]
admin: {{address: "127.0.0.1:{admin}"}}
access_log: {{path: "off"}}
upstreams: {{one: {{backends: ["127.0.0.1:1"]}}}}
routes: [{{name: own, match: {{path: /}}, respond: {{status: 204}}}}, {{name: one, match: {{path: /x}}, upstream: one}}]
"""


def at_rest(instances: Sequence[Instance], settings: Settings) -> list[list[Figures]]:
    """Waits, then looks at all of each proxy's processes."""
    time.sleep(settings.rest_seconds)
    figures = []
    for instance in instances:
        with instance.blamed():
            figures.append([{"resident_mb": instance.proportional_bytes() / MB}])
    return figures


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory(prefix="bench-rest-") as name:
        port = free_port()
        file = Path(name, "gateway.yaml")
        file.write_text(CONFIGURATION.format(workers=workers, port=port, admin=free_port()))
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "run", "-c", file], stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            if not any("ready: " in line for line in process.stderr):
                raise SystemExit("bench: the gateway did not start")
            print(f"ready after {time.monotonic() - began:.2f} s")
            time.sleep(REST_SECONDS)
            processes = [process.pid, *_descendants(process.pid)]
            print(f"CPU of all processes until {REST_SECONDS:g} s later: {sum(map(_cpu_seconds, processes)):.2f} s")
            for pid in processes:
                print(f"{proportional_bytes(frozenset((pid,))) / MB:6.1f} MB  {_command_line(pid)}")
            print(f"{proportional_bytes(frozenset(processes)) / MB:6.1f} MB  in all ({workers} workers)")
            if workers == 1:
                print(f"answers {_seconds_without(processes[-1], port) * 1000:.0f} ms after kill -9 of the worker")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


def _descendants(pid: int) -> Iterator[int]:
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        yield child
        yield from _descendants(child)


def _cpu_seconds(pid: int) -> float:
    """Its own, and that of children that have exited: utime, stime, cutime and cstime of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()[:100]


def _seconds_without(worker: int, port: int) -> float:
    """Kills the only worker; returns how long a request takes then. Its connection waits in the listening socket."""
    began = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not connection.recv(4096).startswith(b"HTTP/1.1 204 "):
            raise SystemExit("bench: the worker that was killed answered, or another one badly")
    return time.monotonic() - began


if __name__ == "__main__":
    main()
