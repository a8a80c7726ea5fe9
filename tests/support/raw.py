"""One connection, of a client or of a scripted backend: bytes in, bytes out, each step with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

from tests.support.deadline import DEADLINE_SECONDS, eventually, within

BUFFER_BYTES = 1024 * 1024
KEY = "Uc9l9TMkWGbHFD2qnFHltg=="
ACCEPT = "1qVdfYHU9hPOl4JYYNXF623Gzn0="
"""What answers ``KEY``."""


def request(path: str = "/", *fields: str, method: str = "GET", host: str = "gateway.test") -> bytes:
    """A request head with just these fields behind ``Host``."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def handshake(path: str = "/", *fields: str, host: str = "gateway.test") -> bytes:
    """The head of a WebSocket handshake."""
    return request(
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *fields,
        host=host,
    )


def switching(*fields: str, accept: str = ACCEPT, upgrade: str = "websocket") -> bytes:
    """The head that a backend accepts :func:`handshake` with."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        f"Upgrade: {upgrade}",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        *fields,
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1")


@dataclass
class Head:
    """The first line and the fields of a message, as they came."""

    raw: bytes
    first_line: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        lines = self.raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.first_line = lines[0]
        self.fields = [(name, value.strip(" ")) for name, _, value in (line.partition(":") for line in lines[1:])]

    def values(self, name: str) -> list[str]:
        """All values of a field, whatever its case."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The only value of a field; None if there is none."""
        found = self.values(name)
        assert len(found) < 2, f"{name} came {len(found)} times: {found}"
        return found[0] if found else None

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first_line.split(" ")[1])

    @property
    def target(self) -> str:
        """Of a request."""
        return self.first_line.split(" ")[1]


@dataclass
class Answer:
    """A whole answer."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def text(self) -> str:
        return self.body.decode()


class Connection:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def name(self) -> str:
        """This end as the gateway's log shows a client: ``host:port``."""
        host, port = self.writer.get_extra_info("sockname")[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def socket(self) -> socket.socket:
        """The socket, for its options."""
        found: socket.socket = self.writer.get_extra_info("socket")
        return found

    # --- sending ---------------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Send, and wait until most of it went."""
        self.writer.write(data)
        await within(self.writer.drain(), "a connection to take bytes")

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Close with RST."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    # --- receiving -------------------------------------------------------------------------------------------------

    async def read(self, size: int) -> bytes:
        """Exactly this many bytes."""
        try:
            return await within(self.reader.readexactly(size), f"{size} bytes")
        except asyncio.IncompleteReadError as error:
            raise AssertionError(f"the connection ended {size - len(error.partial)} bytes early") from None

    async def head(self, seconds: float = DEADLINE_SECONDS) -> Head:
        """The next head."""
        try:
            return Head(await within(self.reader.readuntil(b"\r\n\r\n"), "a head", seconds))
        except asyncio.IncompleteReadError as error:
            raise AssertionError(f"the connection ended in a head: {error.partial!r}") from None

    async def answer(self, head_only: bool = False, seconds: float = DEADLINE_SECONDS) -> Answer:
        """The next answer with its body, whatever frames that. :param head_only: it answers a HEAD"""
        head = await self.head(seconds)
        length = head.value("content-length")
        if head_only or head.status in (101, 204, 304) or 100 <= head.status < 200:
            return Answer(head, b"")
        if (head.value("transfer-encoding") or "").lower() == "chunked":
            return Answer(head, await self.chunked())
        if length is not None:
            return Answer(head, await self.read(int(length)))
        return Answer(head, await self.rest())

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; empty for the last."""
        line = await within(self.reader.readuntil(b"\r\n"), "a chunk")
        size = int(line.partition(b";")[0], 16)
        return (await self.read(size + 2))[:-2]

    async def chunked(self) -> bytes:
        """The rest of a chunked body, which has no trailers."""
        pieces = []
        while piece := await self.chunk():
            pieces.append(piece)
        return b"".join(pieces)

    async def rest(self, seconds: float = DEADLINE_SECONDS) -> bytes:
        """Everything up to FIN. A reset fails."""
        try:
            return await within(self.reader.read(-1), "the end of a connection", seconds)
        except ConnectionResetError:
            raise AssertionError("the connection was reset") from None

    async def ends(self, seconds: float = DEADLINE_SECONDS) -> bytes:
        """Everything up to the end, FIN or reset alike."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while data := await within(self.reader.read(BUFFER_BYTES), "the end of a connection", seconds):
                found += data
        return found

    async def is_quiet(self, seconds: float = 0.2) -> bool:
        """Whether nothing comes for a while, not even the end. Only for what must never happen."""
        try:
            async with asyncio.timeout(seconds):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        except asyncio.IncompleteReadError:
            return False
        return False

    # --- both ------------------------------------------------------------------------------------------------------

    async def echoes(self, message: bytes, answer: bytes) -> None:
        """Send ``message``, expect ``answer``."""
        await self.send(message)
        assert await self.read(len(answer)) == answer

    async def close(self) -> None:
        """Close, however the connection is."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await within(self.writer.wait_closed(), "a connection to close")


async def connect(address: str) -> Connection:
    """Connect to ``host:port``, ``[host]:port`` or ``unix:/path``."""
    if address.startswith("unix:"):
        opening = asyncio.open_unix_connection(address.removeprefix("unix:"), limit=BUFFER_BYTES)
    else:
        host, _, port = address.rpartition(":")
        opening = asyncio.open_connection(host.strip("[]"), int(port), limit=BUFFER_BYTES)
    return Connection(*await within(opening, f"a connection to {address}"))


async def refuses(address: str) -> bool:
    """Whether nobody listens at an address."""
    try:
        await (await connect(address)).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


async def eventually_refuses(address: str) -> None:
    """A reload is told of as done when the supervisor has closed its sockets; workers follow at once."""

    await eventually(lambda: refuses(address), f"nobody to listen at {address}")
