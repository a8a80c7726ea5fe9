"""Programs that send over a TLS connection what is typed: ``openssl s_client`` and ``s_server``, ``gnutls-cli``."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

from tests.peers.servers import Servers, program
from tests.peers.tls.site import NAME, Site
from tests.support.certificates import Files
from tests.support.deadline import eventually
from tests.support.frames import BINARY, frame
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.raw import handshake, request

MASK = b"\x80\x80\x80\x80"
"""Turns text into what neither program takes for a command, wherever it cuts its input."""

_numbers = itertools.count()


class Talk:
    """A connection that such a program has open."""

    def __init__(self, process: Process, trace: Path | None = None) -> None:
        """:param trace: file in which the program writes down all messages of TLS"""
        self.process = process
        self._seen = 0
        self._trace = trace

    async def type(self, data: bytes | str) -> None:
        """Type something, which the program reads at once if it is short."""
        await self.process.write(data.encode() if isinstance(data, str) else data)

    async def prints(self, text: str) -> str:
        """The next line of its stdout, after that of the last call, with a text in it."""
        line = await self.process.stdout.first(
            lambda line: line if text in line else None, repr(text[-100:]), self._seen
        )
        self._seen = self.process.stdout.lines.index(line, self._seen) + 1
        return line

    def traced(self, text: str) -> int:
        """How many lines of the trace have a text in them."""
        assert self._trace is not None, "it was started without a trace"
        return self._trace.read_text().count(text)

    async def traces(self, text: str, count: int = 1) -> None:
        """Wait until so many lines of the trace have a text in them."""
        await eventually(lambda: self.traced(text) >= count, f"{text!r} in the trace")

    async def get(self) -> None:
        """Ask for something over https, and get it."""
        path = f"/number-{next(_numbers)}"
        await self._ask(request(path, host=NAME), f'"target": "{path}"')

    async def upload(self, size: int) -> None:
        """Send a body, and hear its digest."""
        body = f"{'x' * size}{next(_numbers)}".encode()
        post = request("/a/upload", f"Content-Length: {len(body)}", method="POST", host=NAME)
        await self._ask(post + body, hashlib.sha256(body).hexdigest())

    async def open_websocket(self) -> None:
        """Upgrade the connection."""
        await self.type(handshake("/ws", host=NAME))
        await self.prints("HTTP/1.1 101 Switching Protocols")

    async def echo(self, size: int = 30) -> None:
        """Send a message over the WebSocket, and get it back."""
        text = f"{'x' * size} {next(_numbers)}."
        # Masked, it ends with a line end: gnutls-cli takes commands at the beginning of a line only.
        await self.type(frame(BINARY, f"{text}\n".encode() + b"\x8a", MASK))
        await self.prints(text)

    async def _ask(self, asked: bytes, answer: str) -> None:
        # The body of the answer ends with no line end; the head of the next answer, in the same line, has one.
        await self.type(asked + request("/", method="HEAD", host=NAME))
        await self.prints(answer)


class SClient:
    """``openssl s_client``, which reads commands: ``K`` and ``k`` for KeyUpdate, ``R`` for renegotiation."""

    def __init__(self, servers: Servers, site: Site) -> None:
        self._servers = servers
        self._site = site

    async def __call__(
        self, *options: str, port: str | None = None, brief: bool = True, trace: Path | None = None
    ) -> Talk:
        """Start one. It verifies the gateway's certificate.

        :param port: to connect to; the gateway's by default
        :param brief: a short summary on stderr, and nothing but data on stdout; otherwise all is on stdout
        :param trace: where it writes down all messages of TLS
        :raises AssertionError: the handshake fails
        """
        process = await self._servers.start(
            *(program("openssl"), "s_client", "-connect", f"127.0.0.1:{port or self._site.port}"),
            *("-servername", NAME, "-verify_hostname", NAME, "-CAfile", self._site.ca, "-verify_return_error"),
            *(("-brief",) if brief else ()),
            *(("-msg", "-msgfile", trace) if trace else ()),
            *options,
            stdin=True,
        )
        if brief:
            await process.stderr.containing("Verification: OK")
            await process.stderr.containing("Server Temp Key")  # the last line that tells anything
        return Talk(process, trace)


class Gnutls:
    """``gnutls-cli``, which reads commands, too: ``^rekey^``, ``^rekey1^``, ``^renegotiate^``, ``^resume^``."""

    def __init__(self, servers: Servers, site: Site) -> None:
        self._servers = servers
        self._site = site

    async def __call__(self, *options: str, priority: str = "NORMAL", port: str | None = None) -> Talk:
        """Start one. It verifies the gateway's certificate. :raises AssertionError: the handshake fails"""
        process = await self._servers.start(
            *(program("gnutls-cli"), "--inline-commands", "-p", port or self._site.port),
            *("--sni-hostname", NAME, "--verify-hostname", NAME, "--x509cafile", self._site.ca),
            *("--priority", priority, *options, "127.0.0.1"),
            stdin=True,
        )
        talk = Talk(process)
        await talk.prints("The certificate is trusted")
        return talk


class SServer:
    """``openssl s_server``, which reads the same commands as ``s_client``, and serves one connection at a time."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    async def __call__(self, pair: Files, *options: str | Path, trace: Path) -> tuple[str, Talk]:
        """Start one; its address, and what is typed into its latest connection.

        :param trace: where it writes down all messages of TLS
        """
        address = f"127.0.0.1:{free_port()}"
        process = await self._servers.start(
            *(program("openssl"), "s_server", "-accept", address, "-cert", pair.cert, "-cert_chain", pair.cert),
            *("-key", pair.key, "-msg", "-msgfile", trace, *options),
            stdin=True,
        )
        talk = Talk(process, trace)
        await talk.prints("ACCEPT")
        return address, talk
