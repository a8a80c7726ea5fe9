"""`python -m bench.flood`: round trips of a quiet tunnel while another one floods its worker with messages.

One worker; the flood goes through a route with `messages_per_second: 200`, then through one without a limit.
"""

import contextlib
import multiprocessing
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.process import free_port
from bench.proxies import REPOSITORY

SECONDS = 4.0
START_SECONDS = 20.0
PAUSE_SECONDS = 0.001
REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
)
_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
_CONFIGURATION = """
workers: 1
listen: [{{address: 127.0.0.1:{port}}}]
admin: {{address: 127.0.0.1:{admin}}}
access_log: off
upstreams: {{one: {{backends: ["127.0.0.1:{backend}"]}}}}
routes:
  - name: limited
    match: {{path: /limited}}
    upstream: one
    limits: {{messages_per_second: {{per_tunnel: 200, burst: 400}}}}
  - {{name: rest, upstream: one}}
"""


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        _backend() as backend,
        running_gateway(Path(name), _CONFIGURATION, backend) as port,
    ):
        for what, path in (("no flood", ""), ("flood, limited", "/limited"), ("flood, no limit", "/free")):
            with _flood(port, path):
                trips = _round_trips(port)
            p99 = statistics.quantiles(trips, n=100)[98]
            print(
                f"{what:16} p50 {statistics.median(trips) * 1e6:7.0f} us, p99 {p99 * 1e6:7.0f} us, {len(trips)} trips"
            )


@contextlib.contextmanager
def _backend() -> Iterator[int]:
    """Sends back what comes to /echo, and reads the rest to nowhere. :returns: its port"""
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.Process(target=_serve, args=(listener,), daemon=True)
    process.start()
    yield listener.getsockname()[1]
    process.terminate()
    process.join()
    listener.close()


def _serve(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=_answer, args=(listener.accept()[0],), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    head = _head(connection)
    connection.sendall(_ANSWER)
    while data := connection.recv(1 << 18):
        if head.startswith(b"GET /echo"):
            connection.sendall(bytes((data[0], data[1] & 0x7F)) + data[6:])


@contextlib.contextmanager
def running_gateway(directory: Path, configuration: str, backend: int) -> Iterator[int]:
    """Run a gateway until the end of the block. :returns: its port"""
    port = free_port()
    file = directory / "gateway.yaml"
    file.write_text(configuration.format(port=port, admin=free_port(), backend=backend))
    process = subprocess.Popen([sys.executable, "-m", "gateway", "run", "-c", file], cwd=REPOSITORY, stderr=-3)
    try:
        _wait_for(port)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit("bench: the gateway did not start")


@contextlib.contextmanager
def _flood(port: int, path: str) -> Iterator[None]:
    if not path:
        yield
        return
    process = multiprocessing.Process(target=_send_for_ever, args=(port, path), daemon=True)
    process.start()
    time.sleep(1)
    yield
    process.terminate()
    process.join()


def _send_for_ever(port: int, path: str) -> None:
    connection = _open(port, path)
    while True:
        connection.sendall((b"\x82\x94mask" + bytes(20)) * 2000)


def _round_trips(port: int) -> list[float]:
    connection = _open(port, "/echo")
    trips = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        started = time.perf_counter()
        connection.sendall(b"\x82\xc0mask" + bytes(64))
        connection.recv(4096)
        trips.append(time.perf_counter() - started)
        time.sleep(PAUSE_SECONDS)
    connection.close()
    return trips


def _open(port: int, path: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(REQUEST.format(path=path, fields="").encode())
    if not _head(connection).startswith(b"HTTP/1.1 101 "):
        raise SystemExit("bench: no upgrade passed")
    return connection


def _head(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += connection.recv(1)
    return received


if __name__ == "__main__":
    main()
