"""A browser opens a page through the gateway, and the page opens a WebSocket through it; without TLS and with it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.conftest import Backends, StartGateway
from tests.peers.servers import Servers, program
from tests.support.certificates import Authority
from tests.support.deadline import SCALE, within
from tests.support.gateway import route
from tests.support.ports import free_port
from tests.support.tokens import SECRET, hs256

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

PAGE = """<!doctype html><title>peer</title><script type="module">
const found = {};
try {
    const url = `${location.protocol.replace("http", "ws")}//${location.host}/socket`;
    const socket = new WebSocket(url, ["other", "v10.stomp"]);
    socket.binaryType = "arraybuffer";
    const events = [];
    let wake;
    for (const kind of ["open", "message", "error", "close"])
        socket.addEventListener(kind, event => { events.push(event); wake?.(); });
    const next = async kind => {
        while (!events.length) await new Promise(resolve => wake = resolve);
        const event = events.shift();
        if (event.type !== kind) throw new Error(`${event.type} instead of ${kind}`);
        return event;
    };
    await next("open");
    found.protocol = socket.protocol;
    found.extensions = socket.extensions;
    socket.send("h\\u00e9llo \\u{1f600}");
    found.text = (await next("message")).data;
    socket.send(new Uint8Array(1 << 20).map((_, at) => at % 251));
    const bytes = new Uint8Array((await next("message")).data);
    found.bytes = bytes.length === 1 << 20 && bytes.every((byte, at) => byte === at % 251);
    socket.close(4001, "done");
    const closed = await next("close");
    found.close = [closed.code, closed.reason, closed.wasClean];

    const source = new EventSource("/events");
    found.event = await new Promise(resolve => source.onmessage = event => resolve(event.data));
    source.close();
    found.next = performance.getEntriesByType("navigation")[0].nextHopProtocol;
} catch (error) {
    found.error = String(error);
}
await fetch("/result", {method: "POST", body: JSON.stringify(found)});
</script>"""

TOKENS_PAGE = """<!doctype html><title>tokens</title><script type="module">
const found = [];
for (const offered of OFFERED) {
    const socket = new WebSocket(`ws://${location.host}/tokens`, offered);
    found.push(await new Promise(resolve => {
        socket.onopen = () => socket.send("hello");
        socket.onmessage = event => { resolve([socket.protocol, event.data]); socket.close(); };
        socket.onerror = () => resolve("error");
    }));
}
await fetch("/result", {method: "POST", body: JSON.stringify(found)});
</script>"""


class Site:
    """A page, events, and where the page reports to."""

    def __init__(self, page: str = PAGE) -> None:
        self._page = page
        self.result: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        app = web.Application()
        app.router.add_get("/", self.page)
        app.router.add_get("/events", self.events)
        app.router.add_post("/result", self.report)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html")

    async def events(self, _: web.Request) -> web.Response:
        return web.Response(text="data: an event\n\n", content_type="text/event-stream")

    async def report(self, request: web.Request) -> web.Response:
        if not self.result.done():
            self.result.set_result(await request.json())
        return web.Response()


def browser(directory: Path) -> tuple[str, ...]:
    """The command of a browser that opens the page at the URL behind it."""
    return (
        program("chromium"),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={directory}/profile",
    )


def key_hash(cert: Path) -> str:
    """What Chromium knows a certificate's key by."""
    key = x509.load_pem_x509_certificate(cert.read_bytes()).public_key()
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


@pytest.mark.parametrize("version", [None, "1.2", "1.3"])
async def test_a_page_and_its_websocket(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path, version: str | None
) -> None:
    """:param version: of TLS, the highest that Chromium is to offer; None for no TLS"""
    site = Site()
    await site.runner.setup()
    port = free_port()
    await web.TCPSite(site.runner, "127.0.0.1", port).start()
    try:
        echo = await backends.echo(compression="deflate")
        pair = Authority(tmp_path).issue("localhost")
        tls: dict[str, Any] = {"tls": {"certificates": [pair.section]}} if version else {}
        gateway = await start_gateway(
            {
                "listen": [{"address": f"127.0.0.1:{free_port()}", **tls}],
                "upstreams": {"site": {"backends": [f"127.0.0.1:{port}"]}, "echo": {"backends": [echo.address]}},
                "routes": [route("socket", "echo"), route("site", "site", "/")],
            }
        )
        await servers.start(
            *browser(tmp_path),
            f"--ignore-certificate-errors-spki-list={key_hash(pair.cert)}",
            *(("--ssl-version-max=tls1.2",) if version == "1.2" else ()),
            f"https://localhost:{gateway.address.rpartition(':')[2]}/" if version else gateway.http("/"),
        )
        found = await within(site.result, "the page to report", 60 * SCALE)
        assert found.pop("extensions").startswith("permessage-deflate")
        assert found == {
            "protocol": "v10.stomp",
            "text": "héllo 😀",
            "bytes": True,
            "close": [4001, "done", True],
            "event": "an event",
            "next": "http/1.1",
        }
        record = await gateway.logged(event="tunnel_end", path="/socket")
        assert (record["initiator"], record["cause"]) == ("client", "close_frame")
        assert (record["client_close_code"], record["backend_close_code"]) == (4001, 4001)
        scrape = await gateway.scrape()
        assert scrape.value("gateway_http_requests_total", code="200") >= 3
        if version:
            labels = {"side": "client", "result": "ok", "version": version}
            assert scrape.value("gateway_tls_handshakes_total", **labels) >= 2
        assert json.loads(gateway.stdout.lines[0])["event"] == "http"
    finally:
        await site.runner.cleanup()


async def test_tokens_among_subprotocols(
    start_gateway: StartGateway, backends: Backends, servers: Servers, tmp_path: Path
) -> None:
    """A browser fails a handshake whose answer selects none of the subprotocols that it has offered."""
    token = hs256()
    offers = [
        (["bearer", token, "v10.stomp"], ["v10.stomp", "hello"]),
        (["v10.stomp", "bearer." + token], ["v10.stomp", "hello"]),
        (["bearer", token], ["bearer", "hello"]),
        (["bearer", token[:-1], "v10.stomp"], "error"),
        (["v10.stomp"], "error"),
    ]
    site = Site(TOKENS_PAGE.replace("OFFERED", json.dumps([offered for offered, _ in offers])))
    await site.runner.setup()
    port = free_port()
    await web.TCPSite(site.runner, "127.0.0.1", port).start()
    try:
        echo = await backends.echo()
        jwt = {"secret": SECRET, "algorithms": ["HS256"], "from": ["subprotocol:bearer"]}
        gateway = await start_gateway(
            {
                "upstreams": {"site": {"backends": [f"127.0.0.1:{port}"]}, "echo": {"backends": [echo.address]}},
                "routes": [route("tokens", "echo", auth={"jwt": jwt}), route("site", "site", "/")],
            }
        )
        await servers.start(*browser(tmp_path), gateway.http("/"))
        found = await within(site.result, "the page to report", 60 * SCALE)
        assert found == [expected for _, expected in offers]
    finally:
        await site.runner.cleanup()
