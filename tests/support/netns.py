"""Network namespaces, and a NAT between two of them that forgets silent connections without telling anybody.

::

    client (10.1.0.2) ── inside (10.1.0.1)  nat  (10.2.0.1) outside ── server (10.2.0.2)

What runs at the client reaches the server through a box of Linux conntrack and nftables, such as a home router is: the
server sees connections from 10.2.0.1. A TCP connection over which no packet goes for ``timeout_seconds`` is forgotten,
and packets of one that is not known are dropped, from either side, without RST or ICMP. Only a SYN of the client's side
makes a connection known.

::

    async with silent_nat(timeout_seconds=5) as nat:
        sock = nat.server.listen()                                      # for serve(sock=...), SockSite(runner, sock)
        await servers.start(*nat.client.command("curl", "http://10.2.0.2:8080"))
        reader, writer = await asyncio.open_connection(sock=await nat.client.connect(nat.server.address, 8080))
        nat.link(nat.client, up=False)                                  # the laptop vanishes

Everything is in namespaces of unique names, which are deleted at the end; those of test runs that were killed are
deleted by the next. Making them takes root: without it, tests that ask for a namespace are skipped.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.support.deadline import DEADLINE_SECONDS, within

CLIENT_ADDRESS = "10.1.0.2"
SERVER_ADDRESS = "10.2.0.2"

_CLONE_NEWNET = 0x40000000
_NAMES = Path("/run/netns")
_NAME = re.compile(r"gateway-test-(\d+)-")
_numbers = itertools.count()

_RULES = """
table ip box {
    chain input {
        type filter hook input priority filter; policy drop;
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "inside" ct state new tcp flags & (fin | syn | rst | ack) == syn accept
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "outside" masquerade
    }
}
"""
_WITH_RST = ("reject", "with", "tcp", "reset")


class Namespace:
    """A network namespace with a loopback interface that is up."""

    def __init__(self, name: str, address: str = "") -> None:
        self.name = name
        self.address = address
        """of its ``eth0``"""

    def command(self, *command: str | Path) -> tuple[str | Path, ...]:
        """A command that runs another one in here. The process that it starts is the other one, with its signals."""
        return (_program("ip"), "netns", "exec", self.name, *command)

    def run(self, *command: str | Path, stdin: str | None = None) -> str:
        """Run a command in here that takes no time; its output."""
        return _run(*self.command(*command), stdin=stdin)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in here; sockets and threads made meanwhile are in here for good. Do not ``await`` inside."""
        with open("/proc/thread-self/ns/net", "rb") as before, open(_NAMES / self.name, "rb") as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def socket(self, family: int = socket.AF_INET) -> socket.socket:
        """A TCP socket in this namespace; a process outside may use it."""
        with self.entered():
            return socket.socket(family, socket.SOCK_STREAM)

    def listen(self, port: int = 0, host: str = "0.0.0.0") -> socket.socket:
        """A listening socket in here. :param port: 0 for a free one, which ``getsockname()`` tells"""
        sock = self.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(1024)
        return sock

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection from here, for ``sock=`` of whatever uses it."""
        sock = self.socket()
        sock.setblocking(False)
        try:
            connecting = asyncio.get_running_loop().sock_connect(sock, (host, port))
            await within(connecting, f"a connection from {self.name} to {host}:{port}")
        except BaseException:
            sock.close()
            raise
        return sock


class SilentNat:
    """Two namespaces with a NAT between them."""

    def __init__(self, client: Namespace, nat: Namespace, server: Namespace) -> None:
        self.client = client
        self.nat = nat
        self.server = server

    def link(self, side: Namespace, up: bool) -> None:
        """Pull the cable of the client or the server out of the box, or plug it in. Neither side is told more."""
        interface = "inside" if side is self.client else "outside"
        _run("ip", "-n", self.nat.name, "link", "set", interface, "up" if up else "down")

    def forget(self) -> None:
        """Forget all connections now, as a router does that restarts."""
        self.nat.run(_program("conntrack"), "-F")

    def refuse(self, port: int) -> None:
        """From now on answer with RST, to either side, for connections to a port of the server that are not known."""
        for rule in ("forward ct state invalid tcp dport", "input tcp sport"):
            self.nat.run(_program("nft"), "add", "rule", "ip", "box", *rule.split(), str(port), *_WITH_RST)

    def known(self) -> list[str]:
        """Established connections that the box knows now, one line each, as ``conntrack -L`` prints them."""
        return self.nat.run(_program("conntrack"), "-L", "-p", "tcp", "--state", "ESTABLISHED").splitlines()


@asynccontextmanager
async def silent_nat(timeout_seconds: int) -> AsyncIterator[SilentNat]:
    """A NAT that forgets connections that were silent for so long, and drops what it does not know."""
    with _namespaces("client", "nat", "server") as (client, nat, server):
        client.address, server.address = CLIENT_ADDRESS, SERVER_ADDRESS
        for side, interface, box in ((client, "inside", "10.1.0.1/24"), (server, "outside", "10.2.0.1/24")):
            add = f"link add {interface} type veth peer name eth0 netns {side.name}"
            _ip(nat, f"{add}\naddr add {box} dev {interface}\nlink set {interface} up")
            _ip(side, f"addr add {side.address}/24 dev eth0\nlink set eth0 up")
        _ip(client, "route add default via 10.1.0.1")
        nat.run(_program("nft"), "-f", "-", stdin=_RULES)  # with a rule about its state, conntrack is at work
        nat.run(
            _program("sysctl"),
            "-q",
            "net.ipv4.ip_forward=1",
            f"net.netfilter.nf_conntrack_tcp_timeout_established={timeout_seconds}",
            "net.netfilter.nf_conntrack_tcp_loose=0",  # a connection is known from its SYN on, or not at all
        )
        yield SilentNat(client, nat, server)


@contextmanager
def namespace(address: str) -> Iterator[Namespace]:
    """One with nothing but a loopback interface. :param address: that this has beside its own, with the prefix"""
    if _found("ip") is None:
        pytest.skip("a network namespace takes iproute2, which is not installed")
    with _namespaces("alone") as (made,):
        _ip(made, f"addr add {address} dev lo nodad")
        yield made


@contextmanager
def _namespaces(*roles: str) -> Iterator[list[Namespace]]:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces takes root: run the tests as root, or with sudo")
    _sweep()
    number = next(_numbers)
    with ExitStack() as stack:
        made = []
        for role in roles:
            namespace = Namespace(f"gateway-test-{os.getpid()}-{number}-{role}")
            try:
                _run("ip", "netns", "add", namespace.name)
            except AssertionError as error:
                if made:
                    raise
                pytest.skip(
                    f"this machine lets root make no network namespaces (a container without privileges?): {error}"
                )
            stack.callback(_delete, namespace.name)
            _ip(namespace, "link set lo up")
            made.append(namespace)
        yield made


def _sweep() -> None:
    """Delete what test runs left behind that were killed."""
    for name in os.listdir(_NAMES) if _NAMES.is_dir() else ():
        match = _NAME.match(name)
        if match and not Path(f"/proc/{match[1]}").exists():
            _delete(name)


def _delete(name: str) -> None:
    # A namespace lives on while somebody has a socket in it: its links go first, so that nothing gets through.
    for interface in ("inside", "outside"):
        subprocess.run(
            (_program("ip"), "-n", name, "link", "delete", interface), stderr=subprocess.DEVNULL, check=False
        )
    _run("ip", "netns", "delete", name)


def _ip(namespace: Namespace, lines: str) -> None:
    _run("ip", "-n", namespace.name, "-batch", "-", stdin=lines + "\n")


def _run(*command: str | Path, stdin: str | None = None) -> str:
    name, *arguments = map(str, command)
    done = subprocess.run(
        (_program(name), *arguments),
        input=stdin or "",
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} failed: {done.stderr.strip()}"
    return done.stdout


def _program(name: str) -> str:
    if name.startswith("/"):
        return name
    found = _found(name)
    if found is None:
        pytest.fail(f"{name} is not installed: run tests/peers/install.sh (make test-peers does)", pytrace=False)
    return found


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


_libc = ctypes.CDLL(None, use_errno=True)
