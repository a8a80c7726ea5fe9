"""One source, two builds: the environment chooses, and what both have by hand (the kernel) is the same in both."""

from __future__ import annotations

import ast
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from errno import EAGAIN, EBADF, ECONNREFUSED, ENOENT, EPIPE
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.build import TWO_BUILDS, VARIABLE, relay_build
from gateway.tunnels.relay.kernel import Kernel
from tests.support.ports import free_port

PACKAGE = Path(gateway.__file__).parent
SHOW = """
import importlib, sys
from gateway.build import relay_build
from gateway.tunnels.relay import kernel
print(kernel.COMPILED, relay_build(), *(importlib.import_module(name).__file__ for name in sys.argv[1:]))
"""


def run(build: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a build chosen."""
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, VARIABLE: build}, capture_output=True, text=True, check=False
    )


def sources() -> dict[str, str]:
    """What both builds are made from, by module, without the ending."""
    return {name: str(PACKAGE.joinpath(*name.split(".")[1:])) for name in sorted(TWO_BUILDS)}


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_the_pure_build_is_python_throughout() -> None:
    result = run("pure", "-c", SHOW, *sources())
    assert result.stdout.split() == ["False", "pure", *(f"{path}.py" for path in sources().values())], result.stderr


@pytest.mark.skipif(not list(PACKAGE.glob("tunnels/relay/kernel*.so")), reason="installed without a C compiler")
@pytest.mark.parametrize("build", ["", "compiled"])
def test_the_compiled_build_is_compiled_throughout(build: str) -> None:
    result = run(build, "-c", SHOW, *sources())
    compiled, name, *files = result.stdout.split()
    assert (compiled, name) == ("True", "compiled"), result.stderr
    assert all(file.endswith(".so") for file in files)


def test_any_other_build_is_refused() -> None:
    result = run("fast", "-c", "import gateway")
    assert result.returncode == 1
    assert "GATEWAY_RELAY=fast: expected pure or compiled" in result.stderr


def test_these_tests_run_on_the_build_that_was_chosen() -> None:
    chosen = os.environ.get(VARIABLE)
    if chosen:
        assert relay_build() == chosen


# --- the kernel, written twice ----------------------------------------------------------------------------------------


def pure_kernel() -> dict[str, list[str]]:
    """Methods of the pure kernel and their arguments."""
    tree = ast.parse((PACKAGE / "tunnels/relay/kernel.py").read_text())
    kernel = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Kernel")
    return {
        method.name: [argument.arg for argument in method.args.args]
        for method in kernel.body
        if isinstance(method, ast.FunctionDef)
    }


def compiled_kernel(ending: str) -> dict[str, list[str]]:
    """Methods of the compiled kernel and their arguments, as its source (pyx) or its declaration (pxd) has them."""
    _, text = (PACKAGE / f"tunnels/relay/kernel.{ending}").read_text().split("cdef class Kernel:")
    found = re.findall(r"^    (?:def|cpdef|cdef)\b[^(\n]*?(\w+)\((self[^)]*)\)", text, re.MULTILINE)
    return {name: [argument.split()[-1] for argument in arguments.split(",")] for name, arguments in found}


def test_both_kernels_have_the_same_methods_with_the_same_arguments() -> None:
    pure = pure_kernel()
    assert {"wait", "recv", "send", "watch", "close"} <= set(pure)
    assert compiled_kernel("pyx") == pure
    assert compiled_kernel("pxd") == {name: arguments for name, arguments in pure.items() if name != "__init__"}


def test_both_kernels_take_as_many_events_at_once() -> None:
    pure = re.search(r"^MAX_EVENTS = (\d+)", (PACKAGE / "tunnels/relay/kernel.py").read_text(), re.MULTILINE)
    compiled = re.search(r"^    EVENTS = (\d+)", (PACKAGE / "tunnels/relay/kernel.pxd").read_text(), re.MULTILINE)
    assert pure is not None
    assert compiled is not None
    assert pure[1] == compiled[1]


def test_errors_come_back_as_negative_numbers() -> None:
    left, right = socket.socketpair()
    with left, right, closing(select.epoll()) as epoll:
        kernel = Kernel(epoll, 1000)
        left.setblocking(False)
        assert kernel.recv(left.fileno()) == -EAGAIN
        right.send(b"hello" * 300)
        assert kernel.recv(left.fileno()) == 1000
        assert kernel.recv(left.fileno()) == 500
        assert bytes(kernel.buffer[:500]) == b"hello" * 100
        right.close()
        assert kernel.recv(left.fileno()) == 0
        assert kernel.recv(-1) == -EBADF
        assert kernel.wait(0) == 0
        epoll.register(left)
        assert kernel.wait(-1) == 1


# --- what handshakes ask of it ----------------------------------------------------------------------------------------


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with closing(select.epoll()) as epoll:
        yield Kernel(epoll, 1000)


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0)), (socket.AF_UNIX, "here")]
)
def test_connecting_and_accepting(
    kernel: Kernel, family: int, address: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(family) as listening:
        try:
            listening.bind(address)
        except OSError as error:
            pytest.skip(f"this machine has no {address}: {error}")
        listening.listen()
        listening.setblocking(False)
        assert kernel.accept(listening.fileno(), 10, 1000) == [(-EAGAIN, None, EAGAIN)]
        ours = []
        for n in range(3):
            ours.append(kernel.open(family))
            assert kernel.connect(ours[-1], family, listening.getsockname(), b"head %d" % n) == 6
        found = kernel.accept(listening.fileno(), 2, 1000)
        found += kernel.accept(listening.fileno(), 10, 1000)
        assert [data for _, _, data in found] == [b"head 0", b"head 1", b"head 2", EAGAIN]
        assert found.pop() == (-EAGAIN, None, EAGAIN)
        for (fd, peer, _), own in zip(found, ours, strict=True):
            with socket.socket(fileno=own) as client, socket.socket(fileno=fd) as server:
                assert not os.get_blocking(fd)
                assert not os.get_inheritable(fd)
                assert peer == (None if family == socket.AF_UNIX else client.getsockname()[:2])
                assert kernel.receive(fd, 10) == EAGAIN
                assert kernel.write(fd, b"answer") == 6
                assert kernel.receive(own, 3) == b"ans"
                assert kernel.receive(own, 100) == b"wer"
                assert kernel.error_of(own) == 0
                kernel.limit_unacknowledged(own, 1234)
                if family != socket.AF_UNIX:
                    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1234
                kernel.shut(fd)
                assert kernel.receive(own, 100) == b""
                server.close()
                assert kernel.write(own, b"x") in (1, -EPIPE)


def test_accepting_stops_where_descriptors_run_short(kernel: Kernel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(3)]
        found = kernel.accept(listening.fileno(), 10, 0)
        assert len(found) == 1
        found += kernel.accept(listening.fileno(), 10, 10_000)
        assert [fd >= 0 for fd, _, _ in found] == [True, True, True, False]
        for fd, _, _ in found[:-1]:
            kernel.close(fd)
        for client in clients:
            client.close()


def test_what_cannot_be_connected_to(kernel: Kernel, tmp_path: Path) -> None:
    for family, address, error in (
        (socket.AF_UNIX, str(tmp_path / "nobody"), ENOENT),
        (socket.AF_INET, ("127.0.0.1", free_port()), ECONNREFUSED),
    ):
        fd = kernel.open(family)
        result = kernel.connect(fd, family, address, b"head")
        # On this machine a connection that is refused is so at once, though nobody promises that.
        assert result in (-error, 0)
        kernel.close(fd)
    assert kernel.receive(-1, 10) == EBADF
    assert kernel.write(-1, b"x") == -EBADF
