"""`python -m bench.misbehaving [KIND…]`: what users notice while one of four backends misbehaves, in each of many ways.

Before each misbehaviour the same users are measured without it. Users hold tunnels on the other three backends and
send messages through them; others come and send a GET or open a tunnel, at a steady rate, whatever the answers take.
Each column is median / 99th percentile. A backend that fails checks ought to be out within 1.7 s, and back within 1.2 s
after its misbehaviour is over; one that is ejected is out after three failures, for 2 s, 4 s if it fails again soon.
"""

import asyncio
import contextlib
import json
import multiprocessing
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from bench.flood import REQUEST, running_gateway
from bench.misconduct import GOOD, KINDS, Backends, backend_of, running_backends
from bench.priority import ahead_of_all
from bench.process import free_port

SECONDS = 4.0
"""How long users are measured, with and without a misbehaviour."""

BACK_SECONDS = 60.0
TUNNELS = 60
PAUSE_SECONDS = 0.002
USERS_A_SECOND = 50
"""GETs, and as many handshakes."""

PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 0.02
_COUNTERS = {
    "gateway_backend_health_checks_total": "checks",
    "gateway_backend_ejections_total": "ejections",
    "gateway_backend_connect_errors_total": "connecting:",
}
_CONFIGURATION = """
workers: 2
listen: [{{{{address: 127.0.0.1:{{port}}}}}}]
admin: {{{{address: 127.0.0.1:{admin}}}}}
access_log: off
keepalive: {{{{client: off, backend: off}}}}
timeouts: {{{{connect: 500ms, handshake: 1s, response: 1s}}}}
upstreams:
  four:
    backends: [{backends}]
    health_check: {{{{path: /health, every: 500ms, timeout: 500ms, healthy_after: 2, unhealthy_after: 2}}}}
    eject: {{{{failures: 3, within: 5s, for: 2s}}}}
    connect_retries: 2
    slow_start: 2s
routes: [{{{{name: all, upstream: four}}}}]
"""


@dataclass
class Figures:
    """What users noticed in one slice of time. Seconds."""

    trips: list[float] = field(default_factory=list)
    """round trips through tunnels of the other backends"""
    gets: list[float] = field(default_factory=list)
    """that the other backends answered, from when they were due"""
    handshakes: list[float] = field(default_factory=list)
    of_fourth: list[float] = field(default_factory=list)
    """GETs and handshakes that the fourth backend answered"""
    errors: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """tunnels of the other backends that ended"""


def main() -> None:
    chosen = sys.argv[1:] or list(KINDS)
    if unknown := [kind for kind in chosen if kind not in KINDS]:
        raise SystemExit(f"bench: unknown: {', '.join(unknown)} (there are: {', '.join(KINDS)})")
    with running_backends(3) as good, running_backends(1) as fourth, tempfile.TemporaryDirectory() as name:
        admin = free_port()
        ports = good.ports + fourth.ports
        text = _CONFIGURATION.format(admin=admin, backends=", ".join(f'"127.0.0.1:{port}"' for port in ports))
        with running_gateway(Path(name), text, 0) as port, _users(port, fourth.ports[0]) as users:
            print(f"{'':12} {'round trips':>20} {'GETs':>20} {'handshakes':>20} {'of the fourth':>20}")
            for kind in chosen:
                _measure(kind, fourth, users, admin)


def _measure(kind: str, fourth: Backends, users: Connection, admin: int) -> None:
    watch = _Watch(admin, fourth.ports[0])
    before = _slice(users)
    counts = watch.counts()
    fourth.conduct(kind)
    began = time.monotonic()
    watch.begin()
    during = _slice(users)
    out = watch.out
    fourth.conduct(GOOD)
    ended = time.monotonic()
    back = watch.until_back()
    after = watch.counts()
    print(f"{kind}: {KINDS[kind]}")
    for what, figures in (("without", before), ("with", during)):
        columns = (_text(each) for each in (figures.trips, figures.gets, figures.handshakes, figures.of_fourth))
        errors = ", ".join(f"{count} x {error}" for error, count in sorted(figures.errors.items())) or "no errors"
        lost = f", {figures.lost} TUNNELS LOST" if figures.lost else ""
        print(f"  {what:10} {' '.join(columns)}  {errors}{lost}")
    said = after - counts
    times = (
        "never out of service"
        if out is None
        else f"out after {out - began:.2f} s, back {max(back - ended, 0.0):.2f} s after"
    )
    print(f"  {times}; metrics: {', '.join(f'{name} {count}' for name, count in said.items()) or 'nothing'}")
    sys.stdout.flush()


def _text(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{'-':>20}"
    return f"{statistics.median(seconds) * 1e3:8.2f} / {statistics.quantiles(seconds, n=100)[98] * 1e3:6.2f} ms"


class _Watch:
    """Looks whether the fourth backend is in service, by the API."""

    def __init__(self, admin: int, port: int) -> None:
        self._admin = admin
        self._address = f"127.0.0.1:{port}"
        self._looking = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.out: float | None = None
        """when it was first seen out of service"""
        self._back = 0.0
        self._is_out = False

    def begin(self) -> None:
        """Look from now on."""
        self._looking.set()
        self._thread.start()

    def until_back(self) -> float:
        """Wait until it is in service, and has been for a second. :returns: since when"""
        deadline = time.monotonic() + BACK_SECONDS
        while time.monotonic() < deadline:
            if not self._is_out and time.monotonic() - self._back > 1:
                break
            time.sleep(LOOK_SECONDS)
        else:
            raise SystemExit("bench: the backend did not come back")
        self._looking.clear()
        self._thread.join()
        return self._back

    def counts(self) -> Counter[str]:
        """What metrics say of the backend."""
        found: Counter[str] = Counter()
        for line in self._get("/metrics").decode().splitlines():
            name, _, labels = line.rpartition(" ")[0].partition("{")
            if name in _COUNTERS and self._address in labels:
                what = re.findall(r'(?:result|reason)="(\w+)"', labels)[0]
                found[f"{_COUNTERS[name]} {what}"] += int(float(line.rpartition(" ")[2]))
        return found

    def _run(self) -> None:
        while self._looking.is_set():
            now = time.monotonic()
            status = json.loads(self._get("/api/v1/status"))
            backends = status["upstreams"][0]["backends"]
            found = next(each for each in backends if each["address"] == self._address)
            is_out = not found["up"] or found["ejected_until"] is not None
            if is_out and self.out is None:
                self.out = now
            if is_out != self._is_out:
                self._back = now
            self._is_out = is_out
            time.sleep(LOOK_SECONDS)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}{path}") as answer:
            data: bytes = answer.read()
        return data


# --- users, in processes of their own ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _users(port: int, fourth: int) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_use, args=(port, fourth, theirs), daemon=True)
    process.start()
    if ours.recv() != "ready":
        raise SystemExit("bench: no tunnels on the other backends")
    with ahead_of_all([process.pid or 0]):
        yield ours
    process.terminate()
    process.join()


def _slice(users: Connection) -> Figures:
    users.send("go")
    figures: Figures = users.recv()
    return figures


def _use(port: int, fourth: int, control: Connection) -> None:
    tunnels = [_open(port) for _ in range(TUNNELS)]
    others = [connection for connection, backend in tunnels if backend != fourth]
    control.send("ready")
    while control.recv():
        figures = Figures()
        coming = threading.Thread(target=lambda figures=figures: asyncio.run(_come(port, fourth, figures)))
        coming.start()
        _round_trips(others, figures)
        coming.join()
        control.send(figures)


def _open(port: int) -> tuple[socket.socket, int]:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(PATIENCE_SECONDS)
    connection.sendall(REQUEST.format(path="/", fields="").encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    return connection, backend_of(head)


def _round_trips(tunnels: list[socket.socket], figures: Figures) -> None:
    end = time.monotonic() + SECONDS
    at = 0
    while time.monotonic() < end and tunnels:
        connection = tunnels[at % len(tunnels)]
        at += 1
        started = time.perf_counter()
        try:
            connection.sendall(b"\x82\xc0mask" + bytes(64))
            received = connection.recv(4096)
        except OSError:
            received = b""
        if not received:
            tunnels.remove(connection)
            figures.lost += 1
            continue
        figures.trips.append(time.perf_counter() - started)
        time.sleep(PAUSE_SECONDS)


async def _come(port: int, fourth: int, figures: Figures) -> None:
    """Send GETs and open tunnels when they are due, however long others take."""
    due = time.monotonic()
    users = []
    for at in range(int(2 * USERS_A_SECOND * SECONDS)):
        due += 1 / (2 * USERS_A_SECOND)
        await asyncio.sleep(due - time.monotonic())
        users.append(asyncio.create_task(_user(port, due, bool(at % 2), fourth, figures)))
    await asyncio.gather(*users)


async def _user(port: int, due: float, upgrades: bool, fourth: int, figures: Figures) -> None:
    kind = "handshake" if upgrades else "GET"
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if upgrades:
                writer.write(REQUEST.format(path="/", fields="").encode())
            else:
                writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            took = time.monotonic() - due
            status = head.split(b" ", 2)[1].decode()
            if status != ("101" if upgrades else "200"):
                figures.errors[f"{kind} {status}"] += 1
            elif backend_of(head) == fourth:
                figures.of_fourth.append(took)
            else:
                (figures.handshakes if upgrades else figures.gets).append(took)
            if upgrades and status == "101":
                writer.write(b"\x88\x82\0\0\0\0\x03\xe8")
            await reader.read()
            writer.close()
    except (TimeoutError, OSError, EOFError) as error:
        figures.errors[f"{kind} {type(error).__name__}"] += 1


if __name__ == "__main__":
    main()
