"""A backend that misbehaves on request, and others that do not: each is an asyncio server in a process of its own."""

import asyncio
import base64
import contextlib
import hashlib
import multiprocessing
import socket
import struct
from collections.abc import Iterator
from multiprocessing.connection import Connection

GOOD = "good"
KINDS = {
    "refuses": "its port is closed",
    "resets": "resets each connection that it accepts",
    "resets heads": "resets each connection when a request has come",
    "drops": "its queue of connections is full, so that SYNs are dropped",
    "hangs": "accepts connections and answers nothing",
    "500": "answers everything with 500",
    "slow": "answers everything after 300 ms",
    "flaps": "refuses for a second, is good for a second, and so on",
}
SLOW_SECONDS = 0.3
FLAP_SECONDS = 1.0
QUEUE = 100
CLOSE = 0x88
NORMAL_CLOSE = b"\x88\x02\x03\xe8"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Backends:
    """Backends in one process."""

    def __init__(self, count: int) -> None:
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=QUEUE) for _ in range(count)]
        self.ports = [listener.getsockname()[1] for listener in listeners]
        self._control, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=_run, args=(listeners, theirs), daemon=True)
        self.process.start()
        for listener in listeners:
            listener.close()

    def conduct(self, kind: str) -> None:
        """Behave like that from now on. :param kind: ``GOOD`` or one of ``KINDS``"""
        self._control.send(kind)
        self._control.recv()

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join()


@contextlib.contextmanager
def running_backends(count: int) -> Iterator[Backends]:
    """Run backends until the end of the block. All of them are on 127.0.0.1."""
    backends = Backends(count)
    try:
        yield backends
    finally:
        backends.close()


def _run(listeners: list[socket.socket], control: Connection) -> None:
    asyncio.run(_serve(listeners, control))


async def _serve(listeners: list[socket.socket], control: Connection) -> None:
    servers = [_Server(listener) for listener in listeners]
    for server in servers:
        await server.conduct(GOOD)
    asked: asyncio.Queue[str] = asyncio.Queue()
    asyncio.get_running_loop().add_reader(control.fileno(), lambda: asked.put_nowait(control.recv()))
    while True:
        kind = await asked.get()
        for server in servers:
            await server.conduct(kind)
        control.send(kind)


class _Server:
    """One backend. Tunnels that are open live on, whatever becomes of new connections."""

    def __init__(self, listener: socket.socket) -> None:
        self._address = listener.getsockname()
        self._listener: socket.socket | None = listener
        self._fillers: list[socket.socket] = []
        self._flapping: asyncio.Task[None] | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._kind = GOOD

    async def conduct(self, kind: str) -> None:
        """Behave like that from now on."""
        if self._flapping is not None:
            self._flapping.cancel()
            self._flapping = None
        self._kind = kind
        if kind == "flaps":
            self._flapping = asyncio.create_task(self._flap())
        elif kind == "drops":
            await self._close()
            self._listen(0)
            assert self._listener is not None
            for _ in range(4):  # a queue of none holds one, and Linux one more
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(self._address)
                self._fillers.append(filler)
        elif kind == "refuses":
            await self._close()
        else:
            await self._open()

    async def _flap(self) -> None:
        while True:
            await self._close()
            await asyncio.sleep(FLAP_SECONDS)
            await self._open()
            await asyncio.sleep(FLAP_SECONDS)

    def _listen(self, backlog: int) -> None:
        self._listener = socket.create_server(self._address, backlog=backlog)

    async def _open(self) -> None:
        if self._fillers:
            await self._close()
        if self._listener is None:
            self._listen(QUEUE)
        assert self._listener is not None
        if self._accepting is None:
            self._listener.setblocking(False)
            self._accepting = asyncio.create_task(self._accept(self._listener))

    async def _close(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
            self._accepting = None
        for filler in self._fillers:
            filler.close()
        self._fillers = []
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            if self._kind == "resets":
                _reset(connection)
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._answer(connection))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _answer(self, connection: socket.socket) -> None:
        """Answer the requests of one connection, or carry its tunnel."""
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(OSError):
            received = b""
            while True:
                while b"\r\n\r\n" not in received:
                    data = await loop.sock_recv(connection, 4096)
                    if not data:
                        return
                    received += data
                head, _, received = received.partition(b"\r\n\r\n")
                if self._kind == "resets heads":
                    _reset(connection)
                    return
                if self._kind == "hangs":
                    await loop.sock_recv(connection, 4096)
                    return
                if self._kind == "slow":
                    await asyncio.sleep(SLOW_SECONDS)
                if self._kind == "500":
                    await loop.sock_sendall(connection, b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
                elif (key := _key(head)) is not None:
                    await loop.sock_sendall(connection, self._switch(key))
                    while (data := await loop.sock_recv(connection, 4096)) and data[0] != CLOSE:
                        await loop.sock_sendall(connection, bytes((data[0], data[1] & 0x7F)) + data[6:])
                    if data:
                        await loop.sock_sendall(connection, NORMAL_CLOSE)
                    return
                else:
                    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Backend: %d\r\n\r\n" % self._address[1]
                    await loop.sock_sendall(connection, answer)

    def _switch(self, key: bytes) -> bytes:
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: %b\r\nX-Backend: %d\r\n\r\n" % (accept, self._address[1])
        )


def backend_of(head: bytes) -> int:
    """The port of the backend that an answer is from."""
    return int(head.lower().partition(b"x-backend: ")[2].partition(b"\r\n")[0])


def _key(head: bytes) -> bytes | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key":
            return value.strip()
    return None


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
