"""The way to plain HTTP, which is imported only some time after a worker's start, or when the first request comes.

aiohttp is a third of all that a worker imports, and most of them have better things to do when they begin: connections
wait for one that replaces a dead one. The import is left to a thread, and tunnels go on meanwhile. Requests that come
before it is done wait, their connections unread.
"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gateway.edge.descriptors import EXHAUSTED
from gateway.imports import without_certificates, without_collections

if TYPE_CHECKING:
    from gateway.edge.edge import Edge
    from gateway.edge.plain import PlainHTTP
    from gateway.edge.request import Peer

PREPARE_SECONDS = 5.0
"""After a worker's start: the rush of those who connect again is over then. It is not left to the first request for
good, since another version of the program may have been installed by then, and the two would not fit together."""


class PlainEntry:
    """Takes connections for plain HTTP, whether it is there yet or not."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._http: PlainHTTP | None = None
        self._importing = False
        self._waiting: list[tuple[int, Peer, bytes]] = []
        """connections, their clients, and what has been read of them"""

    def prepare_later(self) -> None:
        """Have plain HTTP imported in a while."""
        self._edge.loop.call_later(PREPARE_SECONDS, self._prepare)

    def adopt(self, fd: int, peer: Peer, received: bytes) -> None:
        """Serve a connection from its first request on.

        :param fd: non-blocking, and not watched
        :param received: what has been read of it
        """
        if self._http is not None:
            self._http.adopt(socket.socket(fileno=fd), peer, received)
            return
        self._waiting.append((fd, peer, received))
        self._prepare()

    async def finish(self) -> None:
        """Close connections that are idle now, the others when they have had their answer, and wait for these."""
        if self._http is not None:
            await self._http.finish()

    def close_idle(self) -> bool:
        """Close connections that are idle. True if there are others; these are closed when they have their answer."""
        served = self._http is not None and self._http.close_idle()
        return served or bool(self._waiting)

    async def close(self) -> None:
        """Close every connection."""
        self._drop_waiting()
        if self._http is not None:
            await self._http.close()

    def _prepare(self) -> None:
        if self._http is None and not self._importing:
            self._importing = True
            self._edge.spawn(self._import())

    async def _import(self) -> None:
        # A thread of its own: those that all share may be waiting for name servers.
        thread = ThreadPoolExecutor(max_workers=1)
        try:
            http = await self._edge.loop.run_in_executor(thread, _imported)
        except OSError as error:
            if error.errno not in EXHAUSTED:
                self._drop_waiting()
                raise
            self._refuse_waiting(error)
            self.prepare_later()
            return
        except Exception:
            self._drop_waiting()  # the next request tries again
            raise
        finally:
            self._importing = False
            thread.shutdown(wait=False)
        self._http = http(self._edge)
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            self.adopt(*connection)

    def _refuse_waiting(self, error: OSError) -> None:
        """Modules are files, and there is no descriptor left to open one."""
        edge = self._edge
        waiting, self._waiting = self._waiting, []
        refused = edge.descriptors.refusal(error)
        for fd, _, _ in waiting:
            edge.answer(fd, refused)
        for _, peer, _ in waiting:
            edge.count_handshake(None, refused.result, 0)
            edge.log_refusal(str(peer), refused)

    def _drop_waiting(self) -> None:
        for fd, _, _ in self._waiting:
            self._edge.drop(fd)
        self._waiting.clear()


def _imported() -> type[PlainHTTP]:
    with without_collections(), without_certificates():
        from gateway.edge.plain import PlainHTTP
    return PlainHTTP
