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
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from gateway.admin import api
from gateway.admin.collector import render
from gateway.admin.handlers import Handler, Handlers
from gateway.admin.operations import NotDone, Operations
from gateway.admin.origin import ANY_HOST, refuse_other_sites
from gateway.admin.state import GatewayState
from gateway.admin.token import CHALLENGE, is_let_in, require_token

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

    def __init__(self, runner: web.AppRunner, threads: ThreadPoolExecutor) -> None:
        self._runner = runner
        self._threads = threads

    async def close(self) -> None:
        """Stop serving and close the socket. After this returns, nothing reads the table any more."""
        await self._runner.cleanup()
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
    app = _Admin(state, multiproc_dir, threads, Handlers(state, operations)).application(sock.family != socket.AF_UNIX)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    return AdminServer(runner, threads)


class _Admin:
    """The handlers and their state."""

    def __init__(
        self, state: GatewayState, multiproc_dir: str, threads: ThreadPoolExecutor, handlers: Handlers
    ) -> None:
        self._state = state
        self._handlers = handlers
        self._multiproc_dir = multiproc_dir
        self._threads = threads

    def application(self, over_tcp: bool) -> web.Application:
        other_sites = refuse_other_sites(lambda: self._state.config.admin.hosts, over_tcp)
        pages = _page_files()
        # Files of the page say nothing of this gateway, and a browser asks for them without a token. The page itself
        # is answered with 401, and asks for the token.
        open_paths = ANY_HOST | {f"/{name}" for name in pages}
        token = require_token(lambda: self._state.config.admin.token, open_paths | {"/"})
        app = web.Application(middlewares=[_errors_as_json, other_sites, token])
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/api/v1/status", self.status)
        app.router.add_get("/api/v1/tunnels", self.tunnels)
        app.router.add_get("/api/v1/limited", self.limited)
        app.router.add_get("/api/v1/history", self.history)
        app.router.add_routes(self._handlers.routes())
        for name, body in pages.items():
            app.router.add_get("/" if name == "index.html" else f"/{name}", self._file(name, body))
        return app

    async def metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        body, content_type = await self._in_thread(lambda: render(self._state, self._multiproc_dir, accept))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        if self._state.ready:
            return web.Response(text="ready\n")
        why = "the gateway is shutting down" if self._state.stopping else "no worker accepts connections"
        return web.Response(status=503, text=f"not ready: {why}\n")

    async def status(self, _: web.Request) -> web.Response:
        return _json(await self._in_thread(lambda: _encoded(api.status(self._state))))

    async def tunnels(self, request: web.Request) -> web.Response:
        query = api.parse_query(request.query.items(), self._state.registry)
        return _json(await self._in_thread(lambda: _encoded(api.tunnels(self._state, query))))

    async def limited(self, _: web.Request) -> web.Response:
        return _json(await self._in_thread(lambda: _encoded(api.limited(self._state))))

    async def history(self, _: web.Request) -> web.Response:
        answer = self._state.history.answer()  # not in a thread: it changes on this one
        return _json(await self._in_thread(lambda: _encoded(answer)))

    def _file(self, name: str, body: bytes) -> Handler:
        content_type = _TYPES[name[name.rindex(".") :]]

        async def serve(request: web.Request) -> web.Response:
            asks = request.path == "/" and not is_let_in(request, self._state.config.admin.token)
            return web.Response(
                body=body,
                status=401 if asks else 200,
                content_type=content_type,
                charset="utf-8",
                headers={"Content-Security-Policy": self._policy(), **(CHALLENGE if asks else {})},
            )

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
    page = files("gateway.admin").joinpath("page")
    return {
        entry.name: entry.read_bytes()
        for entry in page.iterdir()
        if entry.is_file() and entry.name[entry.name.rfind(".") :] in _TYPES
    }


def _encoded(data: api.Object) -> bytes:
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors in JSON if the request was for the API."""
    try:
        return await handler(request)
    except api.BadQuery as error:
        return _json(_encoded({"error": str(error)}), 400)
    except NotDone as error:
        return _json(_encoded({"error": str(error)}), 409)
    except web.HTTPException as error:
        if not request.path.startswith(_API):
            raise
        response = _json(_encoded({"error": error.text or error.reason}), error.status)
        for name in ("Allow", "WWW-Authenticate"):
            if name in error.headers:
                response.headers[name] = error.headers[name]
        return response
