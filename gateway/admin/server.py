"""The admin address: metrics, health checks, the API and the status page, served by the supervisor.

=================== =====================================================================
``/metrics``        a scrape for Prometheus
``/healthz``        200 while the supervisor lives
``/readyz``         200 while handshakes are accepted, else 503
``/api/v1/status``  JSON; see ``api.py``
``/api/v1/tunnels`` JSON; see ``api.py``
``/api/v1/limited`` JSON; see ``api.py``
``/api/v1/…``       operations by ``POST``; see ``handlers.py``
``/``               the status page, from the files in ``page/``
=================== =====================================================================

Requests from pages of other web sites are refused (``origin.py``). They could not read the answers anyway: there are no
CORS fields, and ``Cross-Origin-Resource-Policy`` forbids it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from gateway.admin import api
from gateway.admin.collector import render
from gateway.admin.handlers import Handlers
from gateway.admin.messages import Handler, Refused, Request, Response, encoded, json_answer, text
from gateway.admin.operations import NotDone, Operations
from gateway.admin.origin import ANY_HOST, OtherSites
from gateway.admin.serving import HttpServer
from gateway.admin.state import GatewayState
from gateway.admin.token import CHALLENGE, is_let_in

MAX_THREADS = 2
"""Scrapes and listings served in parallel; further ones wait."""

SHUTDOWN_SECONDS = 2.0
_API = "/api/"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Server": "upgrade-gateway",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_Result = TypeVar("_Result")


class AdminServer:
    """A running admin address."""

    def __init__(self, server: HttpServer, threads: ThreadPoolExecutor) -> None:
        self._server = server
        self._threads = threads

    async def close(self) -> None:
        """Stop serving and close the socket. After this returns, nothing reads the table any more."""
        await self._server.close(SHUTDOWN_SECONDS)
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)


async def start_admin(
    state: GatewayState, sock: socket.socket, multiproc_dir: str, operations: Operations
) -> AdminServer:
    """Serve the admin address.

    :param operations: carries out ``POST`` requests
    :param sock: bound, of any family; the server owns it
    :param multiproc_dir: directory of the workers' metrics files (``events.py``)
    """
    threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="admin")
    admin = _Admin(state, multiproc_dir, threads, Handlers(state, operations), sock.family != socket.AF_UNIX)
    server = HttpServer(admin.answer, _HEADERS)
    await server.start(sock)
    return AdminServer(server, threads)


class _Admin:
    """The handlers and their state."""

    def __init__(
        self, state: GatewayState, multiproc_dir: str, threads: ThreadPoolExecutor, handlers: Handlers, over_tcp: bool
    ) -> None:
        self._state = state
        self._multiproc_dir = multiproc_dir
        self._threads = threads
        self._other_sites = OtherSites(lambda: state.config.admin.hosts, over_tcp)
        pages = _page_files()
        # Files of the page say nothing of this gateway, and a browser asks for them without a token. The page itself
        # is answered with 401, and asks for the token.
        self._open_paths = ANY_HOST | {f"/{name}" for name in pages} | {"/"}
        self._reads: dict[str, Handler] = {
            "/metrics": self.metrics,
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/api/v1/status": self.status,
            "/api/v1/tunnels": self.tunnels,
            "/api/v1/limited": self.limited,
            "/api/v1/history": self.history,
        }
        for name, body in pages.items():
            self._reads["/" if name == "index.html" else f"/{name}"] = self._file(name, body)
        self._orders = handlers.by_path()

    async def answer(self, request: Request) -> Response:
        """Answer a request; errors in JSON if it was for the API."""
        try:
            self._other_sites.refuse(request)
            if request.path not in self._open_paths and not is_let_in(request, self._state.config.admin.token):
                raise Refused(401, "a bearer token is needed (admin.token)", CHALLENGE)
            return await self._handler(request)(request)
        except api.BadQuery as error:
            return json_answer(encoded({"error": str(error)}), 400)
        except NotDone as error:
            return json_answer(encoded({"error": str(error)}), 409)
        except Refused as error:
            if request.path.startswith(_API):
                return json_answer(encoded({"error": str(error)}), error.status, error.fields)
            return text(str(error), error.status, error.fields)

    def _handler(self, request: Request) -> Handler:
        """:raises Refused: there is no such path (404), or it has another method (405)"""
        for handlers, methods in ((self._reads, ("GET", "HEAD")), (self._orders, ("POST",))):
            if (handler := handlers.get(request.path)) is not None:
                if request.method not in methods:
                    raise Refused(405, fields={"Allow": ",".join(methods)})
                return handler
        raise Refused(404)

    async def metrics(self, request: Request) -> Response:
        accept = ",".join(request.values("accept"))
        return Response(*await self._in_thread(lambda: render(self._state, self._multiproc_dir, accept)))

    async def healthz(self, _: Request) -> Response:
        return text("ok\n")

    async def readyz(self, _: Request) -> Response:
        if self._state.ready:
            return text("ready\n")
        why = "the gateway is shutting down" if self._state.stopping else "no worker accepts connections"
        return text(f"not ready: {why}\n", 503)

    async def status(self, _: Request) -> Response:
        return json_answer(await self._in_thread(lambda: encoded(api.status(self._state))))

    async def tunnels(self, request: Request) -> Response:
        query = api.parse_query(request.query, self._state.registry)
        return json_answer(await self._in_thread(lambda: encoded(api.tunnels(self._state, query))))

    async def limited(self, _: Request) -> Response:
        return json_answer(await self._in_thread(lambda: encoded(api.limited(self._state))))

    async def history(self, _: Request) -> Response:
        answer = self._state.history.answer()  # not in a thread: it changes on this one
        return json_answer(await self._in_thread(lambda: encoded(answer)))

    def _file(self, name: str, body: bytes) -> Handler:
        content_type = f"{_TYPES[name[name.rindex('.') :]]}; charset=utf-8"

        async def serve(request: Request) -> Response:
            asks = request.path == "/" and not is_let_in(request, self._state.config.admin.token)
            fields = {"Content-Security-Policy": self._policy(), **(CHALLENGE if asks else {})}
            return Response(body, content_type, 401 if asks else 200, fields)

        return serve

    def _policy(self) -> str:
        connect = "'self'"
        if self._state.demo and (url := api.demo_url(self._state.config)):
            # CSP has no way to write an IPv6 address.
            connect += " ws:" if "[" in url else f" ws://{urlsplit(url).netloc}"
        return f"default-src 'self'; connect-src {connect}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _page_files() -> dict[str, bytes]:
    """Return the page's files, by name. They are small, and read once."""
    page = Path(__file__).with_name("page")
    return {entry.name: entry.read_bytes() for entry in page.iterdir() if entry.suffix in _TYPES and entry.is_file()}
