"""Plain HTTP, byte for byte: a scripted backend, and a client that records what it gets.

A *script* is what a backend does for one request: bytes to send, some of them only when a test allows it; pauses, in
seconds; and the steps in :class:`Do`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from tests.support.deadline import eventually, quiet_for, within
from tests.support.ports import free_port
from tests.support.raw import Head, request
from tests.support.wire import Wire, dial


class Do(Enum):
    """What a backend does besides sending."""

    BODY = auto()
    """reads the request's body"""
    EARLY = auto()
    """does not read the body yet; a script with neither step reads it first"""
    CLOSE = auto()
    """sends FIN, then reads until the other end closes"""
    RESET = auto()
    """closes with RST"""


Script = Sequence[bytes | float | Do | Callable[[], Awaitable[bytes]]]

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
AROUND: Final = ("/before", "/after", "/next")
"""Targets of requests before and after the one under test. They are answered with their names, and not recorded."""

IDLE_SECONDS: Final = 3600.0

_NO_BODY: Final = (204, 304)


@dataclass
class Message:
    """A request or an answer, as it came."""

    head: Head | None = None
    """None if the connection ended before it was complete"""
    interim: list[Head] = field(default_factory=list)
    """heads of interim answers"""
    body: bytes = b""
    """without its framing"""
    framed: bytes = b""
    """as it was on the wire, behind the head"""
    cut: str | None = None
    """how the connection ended within it (:mod:`tests.support.wire`); ``malformed`` for an invalid chunk"""
    link: Link | None = None
    """the backend's connection that a request came on"""
    played: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """set once the backend has run its whole script for a request"""

    @property
    def status(self) -> int:
        """Of an answer; 0 for none."""
        return _status(self.head) if self.head else 0

    def value(self, name: str) -> str | None:
        """The only value of a field."""
        assert self.head is not None, "no head came"
        return self.head.value(name)


async def read_request(wire: Wire) -> Message:
    """The next request, whole."""
    message = await read_request_head(wire)
    await read_request_body(wire, message)
    return message


async def read_request_head(wire: Wire) -> Message:
    """The next request, without its body."""
    head = await wire.until(b"\r\n\r\n")
    return Message(cut=wire.ended) if head is None else Message(Head(head))


async def read_request_body(wire: Wire, message: Message) -> None:
    """Read the body of a request."""
    if message.head is not None:
        await _read_body(wire, message, 0)


async def read_answer(wire: Wire, method: str = "GET") -> Message:
    """The next answer, with interim ones before it. :param method: that of the request"""
    message = Message()
    while True:
        head = await wire.until(b"\r\n\r\n")
        if head is None:
            message.cut = wire.ended
            return message
        seen = Head(head)
        if 100 <= _status(seen) < 200 and _status(seen) != 101:
            message.interim.append(seen)
            continue
        message.head = seen
        if method != "HEAD" and message.status not in (101, *_NO_BODY):
            await _read_body(wire, message, None)
        return message


def _status(head: Head) -> int:
    """The status of an answer; 0 where there is none."""
    _, _, status = head.first_line.partition(" ")
    digits = status.strip(" ").partition(" ")[0]
    return int(digits) if digits.isdigit() else 0


async def _read_body(wire: Wire, message: Message, otherwise: int | None) -> None:
    """:param otherwise: length where no field gives one; None for all that comes until the end"""
    assert message.head is not None
    if message.head.values("transfer-encoding"):
        await _read_chunks(wire, message)
        return
    given = [value.strip() for value in message.head.values("content-length")]
    length = int(given[0]) if given and given[0].isdigit() else otherwise
    if length is None:
        message.body = message.framed = await wire.rest()
        message.cut = None if wire.ended == "fin" else wire.ended
        return
    message.body = message.framed = await wire.exactly(length)
    message.cut = wire.ended if len(message.body) < length else None


async def _read_chunks(wire: Wire, message: Message) -> None:
    while True:
        line = await _framing_line(wire, message)
        if line is None:
            return
        try:
            size = int(line.partition(b";")[0].strip(), 16)
        except ValueError:
            message.cut = "malformed"
            return
        if size == 0:
            break
        data = await wire.exactly(size + 2)
        message.framed += data
        message.body += data[:size]
        if len(data) < size + 2:
            message.cut = wire.ended
            return
    while line != b"\r\n":  # trailers
        line = await _framing_line(wire, message)
        if line is None:
            return


async def _framing_line(wire: Wire, message: Message) -> bytes | None:
    """The next line of a chunked body; None at the end of the connection."""
    line = await wire.until(b"\r\n")
    if line is None:
        message.framed += wire.take(len(wire.buffer))
        message.cut = wire.ended
        return None
    message.framed += line
    return line


class Link:
    """A connection that a backend has accepted."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.heads: list[Head] = []
        """of all requests on it"""
        self.over = asyncio.Event()
        """the other end has closed it, or this one did"""

    async def ends(self) -> None:
        """Wait until the gateway has closed it."""
        await within(self.over.wait(), "the backend's connection to be closed")


class RawBackend:
    """A server that plays scripts."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self.address = "{}:{}".format(*listener.getsockname())
        self.bytewise = False
        """send each byte on its own"""
        self.requests: list[Message] = []
        """requests received, except those of ``AROUND``"""
        self.links: list[Link] = []
        self.scripts_by_target: Mapping[str, Script] = {}
        """scripts for requests of these targets, whenever they arrive"""
        self._scripts: list[Script] = [(OK,)]
        self._listener = listener
        self._tasks = {asyncio.create_task(self._accept())}
        self._failures: list[BaseException] = []

    @classmethod
    async def start(cls) -> RawBackend:
        """Start one."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", free_port()))
        listener.listen(1024)
        return cls(listener)

    def plays(self, *scripts: Script, bytewise: bool = False) -> list[Link]:
        """Play these scripts from now on, one for each request, and the last one for all further requests. Earlier
        requests are forgotten, and connections are closed.

        :returns: those that the other side still has to close
        """
        self.bytewise = bytewise
        self._scripts = list(scripts) or [(OK,)]
        self.requests = []
        return self.forget()

    def forget(self) -> list[Link]:
        """Close all connections. :returns: those that the other side still has to close"""
        links, self.links = self.links, []
        for link in links:
            link.wire.half_close()
        return links

    async def asked(self) -> None:
        """Wait until the head of a request has come."""
        await eventually(lambda: self.requests, "a request at the backend")

    async def closed(self) -> None:
        """Wait until the gateway has closed the connection of the latest request."""
        link = self.requests[-1].link
        assert link is not None
        await link.ends()

    async def close(self) -> None:
        """Close it."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        assert not self._failures, f"a backend failed: {self._failures!r}"

    async def _accept(self) -> None:
        while True:
            own, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            link = Link(Wire(own))
            self.links.append(link)
            task = asyncio.create_task(self._serve(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: Link) -> None:
        try:
            while await self._serve_one(link):
                pass
        except Exception as error:
            self._failures.append(error)
        finally:
            link.over.set()
            link.wire.close()

    async def _serve_one(self, link: Link) -> bool:
        """Serve one request; False at the end of the connection."""
        wire = link.wire
        if not wire.buffer and not await wire.more(IDLE_SECONDS):
            return False
        message = await read_request_head(wire)
        if message.head is None:
            return False
        message.link = link
        link.heads.append(message.head)
        around = [name for name in AROUND if message.head.target == name]
        if around:
            wire.bytewise = False
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(around[0]), around[0].encode()))
            return True
        number = len(self.requests)
        self.requests.append(message)
        wire.bytewise = self.bytewise
        try:
            script = self._scripts[min(number, len(self._scripts) - 1)]
            return await self._play(wire, message, self.scripts_by_target.get(message.head.target, script))
        finally:
            message.played.set()

    async def _play(self, wire: Wire, message: Message, script: Script) -> bool:
        if Do.BODY not in script and Do.EARLY not in script:
            await read_request_body(wire, message)
        for step in script:
            if isinstance(step, bytes):
                await wire.send(step)
            elif isinstance(step, float):
                await quiet_for(step)
            elif step is Do.BODY:
                await read_request_body(wire, message)
            elif callable(step):
                await wire.send(await step())
            elif step is Do.CLOSE:
                wire.half_close()
                await wire.rest()
                return False
            elif step is Do.RESET:
                wire.reset()
                return False
        return Do.EARLY not in script


@dataclass
class Seen:
    """What a client got."""

    answers: list[Message]
    after: Message | None
    """the answer to a request behind them; None if the connection was closed"""
    behind: bytes = b""
    """bytes behind them, if that is not an answer"""


async def play(
    address: str,
    sent: bytes,
    methods: Sequence[str] = ("GET",),
    *,
    kept: bool = False,
    bytewise: bool = False,
    behind: int | None = None,
    then: Callable[[], Awaitable[object]] | None = None,
) -> Seen:
    """Send a client's bytes, and return what it gets.

    :param address: whom to
    :param methods: of the requests in ``sent``: so many answers are waited for
    :param kept: send a request before, on the same connection
    :param bytewise: send each byte on its own
    :param behind: read so many bytes behind the answers, in place of a request on the same connection
    :param then: waited for before that request
    """
    wire = await dial(address)
    try:
        if kept:
            await wire.send(request("/before"))
            assert (await read_answer(wire)).body == b"/before"
        wire.bytewise = bytewise
        await wire.send(sent)
        answers = []
        for method in methods:
            answers.append(await read_answer(wire, method))
            if answers[-1].cut or answers[-1].status == 0:
                break
        seen = Seen(answers, None)
        if behind is not None:
            seen.behind = await wire.exactly(behind)
        elif wire.ended is None:
            if then is not None:
                await then()
            wire.bytewise = False
            await wire.send(request("/after"))
            answer = await read_answer(wire)
            seen.after = answer if answer.head is not None else None
        return seen
    finally:
        wire.close()
