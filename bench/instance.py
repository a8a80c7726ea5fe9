"""One running proxy: started with a backend behind it, proven to upgrade, ended, its files removed."""

import contextlib
import re
import socket
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import cpu
from bench.certificate import Tls
from bench.errors import BenchError
from bench.load import Load, running_backend, running_load
from bench.process import Group, free_port
from bench.proxies import Place, Proxy
from bench.rules import Rules

START_SECONDS = 20.0
LINES_SHOWN = 8
_UPGRADE = (
    "GET /ws/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://127.0.0.1:{port}\r\n{fields}\r\n"
)


@dataclass(frozen=True)
class Cores:
    """Which cores the proxy and the load may use; None leaves it to the scheduler."""

    proxy: set[int] | None
    load: set[int] | None


@dataclass(frozen=True)
class Instance:
    """A proxy that runs and relays, with its keepalive; `tls` is what clients use toward it, None for plain TCP."""

    name: str
    directory: Path
    port: int
    pids: frozenset[int]
    backend_port: int
    backend_pid: int
    keepalive: str
    load_program: Path
    load_cores: set[int] | None
    tls: Tls | None
    fields: str = ""

    def load(self, mode: str, *arguments: str | float) -> contextlib.AbstractContextManager[Load]:
        """Runs clients in front of it: a mode of the load program and what it takes behind the port."""
        first = [] if self.tls is None else ["--tls", self.tls.version, str(self.tls.certificate)]
        return running_load(
            self.load_program, *first, mode, self.port, *arguments, cores=self.load_cores, fields=self.fields
        )

    def cpu_seconds(self) -> float:
        return cpu.cpu_seconds(self.pids)

    def memory_bytes(self) -> int:
        return cpu.memory_bytes(self.pids)

    def proportional_bytes(self) -> int:
        return cpu.proportional_bytes(self.pids)

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """What fails inside becomes a BenchError with the proxy's name and the end of what it printed."""
        with _blame(self.name, self.directory):
            yield


@contextlib.contextmanager
def running(
    proxy: Proxy,
    workers: int,
    keepalive: str,
    tls: Tls | None,
    load_program: Path,
    cores: Cores,
    rules: Rules | None = None,
    fields: str = "",
) -> Iterator[Instance]:
    """Starts a backend and `proxy` in front of it, waits until an upgrade passes, and ends both.

    `keepalive` is the YAML of that key, and means something to our gateway alone, as `rules` do. With `tls` it listens
    for that only. `fields` are lines for requests to upgrade.

    Raises BenchError, with the end of what the proxy printed, when it does not come up.
    """
    program = proxy.find()
    if program is None:
        raise BenchError(f"{proxy.name}: no program {proxy.program} on PATH")
    with (
        tempfile.TemporaryDirectory(prefix=f"bench-{proxy.name}-") as name,
        running_backend(load_program, cores.load) as (backend_port, backend_pid),
    ):
        directory = Path(name)
        directory.chmod(0o755)  # nginx started by root works as another user
        place = Place(directory, free_port(), free_port(), backend_port, workers, keepalive, tls, rules or Rules())
        launch = proxy.launch(program, place)
        with (directory / "stdout").open("wb") as output, (directory / "stderr").open("wb") as errors:
            group = Group(
                launch.command,
                cores=cores.proxy,
                output=output,
                errors=errors,
                directory=launch.working_directory or directory,
                environment=launch.environment,
            )
        try:
            with _blame(proxy.name, directory):
                _wait_until_it_upgrades(group, place.port, tls, fields)
                if proxy.relay is not None:
                    _check_relay(place.admin_port, proxy.relay)
            pids = cpu.tree(group.pid)
            yield Instance(
                proxy.name,
                directory,
                place.port,
                pids,
                backend_port,
                backend_pid,
                keepalive,
                load_program,
                cores.load,
                tls,
                fields,
            )
        finally:
            group.stop(proxy.stop)


def _wait_until_it_upgrades(group: Group, port: int, tls: Tls | None, fields: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    answer = b""
    while time.monotonic() < deadline:
        if group.has_ended():
            raise BenchError("it ended instead of starting")
        with contextlib.suppress(OSError), _connect(port, tls) as probe:
            probe.sendall(_UPGRADE.format(port=port, fields=fields).encode())
            answer = probe.recv(4096)
            if answer.startswith(b"HTTP/1.1 101 "):
                return
        time.sleep(0.02)
    raise BenchError(f"no upgrade passed within {START_SECONDS:.0f} s; the last answer was {answer[:200]!r}")


def _connect(port: int, tls: Tls | None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 1)
    if tls is None:
        return connection
    with connection:  # the TLS socket takes the descriptor over
        return ssl.create_default_context(cafile=tls.certificate).wrap_socket(connection, server_hostname="127.0.0.1")


def _check_relay(admin_port: int, relay: str) -> None:
    """Our two variants differ only in this: one must not be measured under the other's name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    line = re.search(r"^gateway_build_info\{.*\}", text, re.MULTILINE)
    found = re.search(r'relay="(\w+)"', line[0]) if line else None
    if found is None or found[1] != relay:
        what = f"the relay is {found[1]}" if found else "/metrics has no gateway_build_info with a relay label"
        raise BenchError(f"{what}, where {relay} was to be measured")


@contextlib.contextmanager
def _blame(name: str, directory: Path) -> Iterator[None]:
    try:
        yield
    except (BenchError, OSError) as error:
        raise BenchError(f"{name}: {error}{_said(directory)}") from error


def _said(directory: Path) -> str:
    text = "".join(
        "\n".join(path.read_text(errors="replace").splitlines()[-LINES_SHOWN:]) + "\n"
        for name in ("stderr", "error.log", "stdout")
        if (path := directory / name).exists()
    )
    return f"\n{text.strip()}" if text.strip() else ""
