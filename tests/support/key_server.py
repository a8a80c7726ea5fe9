"""A server of key sets, which answers what a test wants."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web

from tests.support.backends import close_runner
from tests.support.deadline import eventually
from tests.support.ports import free_port


class KeyServer:
    """Serves ``/keys.json`` and counts what it is asked."""

    def __init__(self) -> None:
        self.keys = [key("one")]
        self.answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None
        """answers in place of the keys"""
        self.asked: list[web.BaseRequest] = []
        self._port = 0
        self._tls: ssl.SSLContext | None = None
        self._runner: web.ServerRunner | None = None

    @classmethod
    async def start(cls, tls: ssl.SSLContext | None = None) -> KeyServer:
        """Start one on a free port."""
        server = cls()
        server._tls = tls
        server._port = free_port()  # none of those that the kernel hands out, as it is listened on again and again
        await server.up()
        return server

    @property
    def url(self) -> str:
        """Of the keys."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}/keys.json"

    async def up(self) -> None:
        """Serve; on the same port as before."""
        # Answers that never come are not waited for.
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True)
        await site.start()

    async def down(self) -> None:
        """Refuse connections."""
        if self._runner is not None:
            await close_runner(self._runner)
            self._runner = None

    async def is_asked(self, times: int) -> None:
        """Wait until it was asked so often."""
        await eventually(lambda: len(self.asked) >= times, f"{times} requests for keys")

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        if self.answer is not None:
            return await self.answer(request)
        return web.json_response({"keys": self.keys})


def key(name: str) -> dict[str, str]:
    """A key of a set."""
    return {"kty": "OKP", "crv": "Ed25519", "kid": name, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


def key_set(*names: str) -> str:
    """A set of such keys."""
    return json.dumps({"keys": [key(name) for name in names]})
