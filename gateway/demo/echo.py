"""The built-in backend of ``gateway demo``: it echoes, streams and delays, to try everything out.

=================== =========================================================================
any path            a WebSocket that echoes every message; it accepts the first subprotocol
                    that the client offers, and closes with the client's close code
``/``               a page that opens a WebSocket to the address it came from
``/sse``            a Server-Sent Event each second
``/slow?seconds=3`` a delayed answer, as in long polling
=================== =========================================================================
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from importlib.resources import files

from aiohttp import WSCloseCode, WSMsgType, web

EVENT_SECONDS = 1.0
MAX_SLOW_SECONDS = 300.0
MAX_MESSAGE_BYTES = 64 << 20
SHUTDOWN_SECONDS = 1.0

_TUNNELS: web.AppKey[set[web.WebSocketResponse]] = web.AppKey("tunnels")
_STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?", re.ASCII)
# RFC 6455 section 7.4.1: codes that are never sent in a frame.
_NEVER_SENT = (1005, 1006, 1015)
_HELP = "This is the demo's echo backend: / is a page, /sse a stream, /slow?seconds=3 a slow answer, ws:// echoes.\n"


async def start_echo(sock: socket.socket) -> web.AppRunner:
    """Serve the backend. ``cleanup()`` of the returned runner ends it, with Close 1001 for every open WebSocket.

    :param sock: bound, of any family; the server owns it
    """
    runner = web.AppRunner(echo_app(), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    return runner


def echo_app() -> web.Application:
    """Return the backend as an application."""
    app = web.Application()
    app[_TUNNELS] = set()
    app[_STOPPING] = asyncio.Event()
    app.on_shutdown.append(_close_all)
    app.router.add_route("*", "/{path:.*}", _serve)
    return app


async def _serve(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await _echo(request)
    if request.method not in ("GET", "HEAD"):
        raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD"), text=_HELP)
    match request.path:
        case "/":
            page = files("gateway.demo").joinpath("echo.html").read_bytes()
            return web.Response(body=page, content_type="text/html", charset="utf-8")
        case "/sse":
            return await _stream(request)
        case "/slow":
            return await _answer_late(request)
    raise web.HTTPNotFound(text=_HELP)


async def _echo(request: web.Request) -> web.WebSocketResponse:
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    ws = web.WebSocketResponse(protocols=(offered[0].strip(),), autoclose=False, max_msg_size=MAX_MESSAGE_BYTES)
    await ws.prepare(request)
    request.app[_TUNNELS].add(ws)
    try:
        while (message := await ws.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
            else:
                await ws.send_bytes(message.data)
        if message.type is WSMsgType.CLOSE:
            code = message.data
            await ws.close(code=WSCloseCode.OK if not code or code in _NEVER_SENT else code, drain=False)
    except ConnectionError:
        pass  # the client went away
    finally:
        request.app[_TUNNELS].discard(ws)
    return ws


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    number = 0
    while True:
        number += 1
        data = json.dumps({"number": number, "time": round(time.time(), 3)})
        await response.write(f"id: {number}\ndata: {data}\n\n".encode())
        if await _stopped(request, EVENT_SECONDS):
            return response


async def _answer_late(request: web.Request) -> web.Response:
    text = request.query.get("seconds", "3")
    seconds = float(text) if _SECONDS.fullmatch(text) else -1.0
    if not 0 <= seconds <= MAX_SLOW_SECONDS:
        raise web.HTTPBadRequest(text=f"seconds must be a number from 0 to {MAX_SLOW_SECONDS:.0f}\n")
    await _stopped(request, seconds)
    return web.Response(text=f"That took {seconds:g} s.\n", headers={"Cache-Control": "no-store"})


async def _stopped(request: web.Request, seconds: float) -> bool:
    """Wait for some seconds; return early with true if the backend is stopped meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            await request.app[_STOPPING].wait()
    except TimeoutError:
        return False
    return True


async def _close_all(app: web.Application) -> None:
    app[_STOPPING].set()
    goodbyes = [ws.close(code=WSCloseCode.GOING_AWAY, message=b"the demo ends") for ws in app[_TUNNELS]]
    await asyncio.gather(*goodbyes, return_exceptions=True)
