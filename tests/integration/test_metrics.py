"""Metrics as a scrape shows them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable

import pytest
import pytest_asyncio

from tests.conftest import Backends, Open, StartGateway
from tests.support.backends import Scripted
from tests.support.deadline import turn, within
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, from_client, read_frame
from tests.support.gateway import Gateway, route
from tests.support.ports import free_port
from tests.support.raw import Connection, handshake, request, switching
from tests.support.scrape import Scrape

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The contract's table: type and labels of everything marked [A], [B] or [D], but for what must be learned first.
CONTRACT = {
    "gateway_tunnels": ("gauge", {"route", "backend"}),
    "gateway_handshakes": ("counter", {"route", "result"}),
    "gateway_handshake_duration_seconds": ("histogram", {"route"}),
    "gateway_tunnel_duration_seconds": ("histogram", {"route"}),
    "gateway_tunnels_closed": ("counter", {"route", "initiator", "cause"}),
    "gateway_close_codes": ("counter", {"route", "side", "code"}),
    "gateway_relayed_bytes": ("counter", {"route", "direction"}),
    "gateway_relayed_frames": ("counter", {"route", "direction", "opcode"}),
    "gateway_idle_gap_seconds": ("histogram", {"route", "side"}),
    "gateway_drop_idle_seconds": ("histogram", {"route", "side"}),
    "gateway_keepalive_pings_sent": ("counter", {"route", "side"}),
    "gateway_keepalive_pongs_received": ("counter", {"route", "side"}),
    "gateway_keepalive_timeouts": ("counter", {"route", "side"}),
    "gateway_keepalive_rtt_seconds": ("histogram", {"route", "side"}),
    "gateway_keepalive_interval_seconds": ("gauge", {"route", "side"}),
    "gateway_http_requests": ("gauge", {"route"}),
    "gateway_http_requests_total": ("counter", {"route", "code"}),
    "gateway_http_request_duration_seconds": ("histogram", {"route"}),
    "gateway_backend_connections": ("counter", {"upstream", "backend", "for", "from"}),
    "gateway_backend_connections_idle": ("gauge", {"upstream", "backend"}),
    "gateway_backend_up": ("gauge", {"upstream", "backend"}),
    "gateway_backend_connect_errors": ("counter", {"upstream", "backend", "reason"}),
    "gateway_workers": ("gauge", set()),
    "gateway_worker_restarts": ("counter", set()),
    "gateway_tunnels_adopted": ("counter", set()),
    "gateway_config_last_reload_successful": ("gauge", set()),
    "gateway_config_last_reload_success_timestamp_seconds": ("gauge", set()),
}
DROP_BOUNDS = [5, 10, 25, 30, 55, 60, 100, 120, 240, 300, 350, 600, 1800, 3600, float("inf")]
IDLE_BOUNDS = ["1.0", "5.0", "10.0", "30.0", "60.0", "120.0", "300.0", "600.0", "1800.0", "3600.0", "+Inf"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(shared_backends: Backends) -> Scripted:
    return await shared_backends.scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, shared_backends: Backends, scripted: Scripted) -> Gateway:
    echo = await shared_backends.echo()
    web = await shared_backends.web()
    return await start_shared_gateway(
        {
            "workers": 2,
            "timeouts": {"close": "500ms"},
            "upstreams": {
                "echo": {"backends": [echo.address]},
                "web": {"backends": [web.address]},
                "scripted": {"backends": [scripted.address]},
                "dead": {"backends": [f"127.0.0.1:{free_port()}"]},
            },
            "routes": [
                route("echo", "echo"),
                route("web", "web"),
                route("scripted", "scripted"),
                route("dead", "dead"),
                route(
                    "kept", "echo", keepalive={"client": {"ping_after": "2s", "pong_timeout": "2s"}, "backend": "off"}
                ),
            ],
        }
    )


def nothing_went_down(scrapes: Iterable[Scrape]) -> None:
    last: dict[object, float] = {}
    for scrape in scrapes:
        now = scrape.counters()
        for series, value in last.items():
            assert series in now, f"{series} is gone"
            assert now[series] >= value, f"{series} went from {value} to {now[series]}"
        last = dict(now)


@pytest.mark.either_build
async def test_scrapes_around_500_tunnels_being_closed(gateway: Gateway, open_connection: Open) -> None:
    clients = [await open_connection(gateway) for _ in range(500)]
    for client in clients:
        client.writer.write(handshake("/echo/500"))
    for client in clients:
        assert (await client.head()).status == 101
        await client.echoes(from_client(TEXT, b"message"), frame(TEXT, b"message"))
    scrapes = [await gateway.tunnels(500, route="echo")]

    async def close_them() -> None:
        for number, client in enumerate(clients):
            if number % 3 == 0:
                await client.send(from_client(CLOSE, close(1000)))
            elif number % 3 == 1:
                await client.close()
            else:
                client.reset()
            await turn()

    closing = asyncio.create_task(close_them())
    while not closing.done() or scrapes[-1].value("gateway_tunnels", route="echo"):
        scrapes.append(await gateway.scrape())
    await closing
    assert len(scrapes) > 4
    nothing_went_down(scrapes)
    for earlier, later in itertools.pairwise(scrapes):
        # What one scrape counts as closed is not open in the next.
        ended = earlier.value("gateway_tunnels_closed_total", route="echo")
        assert later.value("gateway_tunnels", route="echo") <= 500 - ended
    last = await gateway.until(
        lambda scrape: scrape.value("gateway_tunnels_closed_total", route="echo") >= 500, "all of them to be counted"
    )
    nothing_went_down([scrapes[-1], last])
    assert last.value("gateway_tunnels_closed_total", route="echo") == 500
    assert last.value("gateway_tunnel_duration_seconds_count", route="echo") == 500
    assert last.value("gateway_close_codes_total", route="echo", side="client", code="1000") == 167
    assert last.value("gateway_relayed_frames_total", route="echo", direction="client_to_backend", opcode="text") == 500


async def test_gateway_tunnels_is_what_is_open(gateway: Gateway, open_connection: Open) -> None:
    clients = []
    for number in range(1, 11):
        client = await open_connection(gateway)
        clients.append(client)
        await client.send(handshake("/echo/open"))
        assert (await client.head()).status == 101
        assert (await gateway.scrape()).value("gateway_tunnels", route="echo") == number
    assert (await gateway.api("tunnels?route=echo"))["total"] == 10
    for client in clients:
        await client.close()
    await gateway.tunnels(0, route="echo")


async def test_frames_and_bytes_are_counted(gateway: Gateway, open_connection: Open, scripted: Scripted) -> None:
    up = [
        from_client(TEXT, b"t" * 10),
        from_client(BINARY, b"b" * 70_000, fin=False),
        from_client(PING, b"p"),
        from_client(CONTINUATION, b"c"),
        from_client(PONG),
    ]
    down = [frame(BINARY, b"x"), frame(BINARY, b"y"), frame(CLOSE, close(4321))]

    async def script(backend: Connection) -> None:
        await scripted.request(backend)
        await backend.send(switching())
        await backend.read(sum(map(len, up)))
        await backend.send(b"".join(down))
        await backend.ends()

    scripted.script = script
    before = await gateway.scrape()
    client = await open_connection(gateway)
    await client.send(handshake("/scripted/frames") + b"".join(up))
    assert (await client.head()).status == 101
    await client.read(sum(map(len, down)))
    await client.send(from_client(CLOSE, close(4321)))
    client.half_close()
    record = await gateway.logged(event="tunnel_end", path="/scripted/frames")
    assert (record["client_frames"], record["backend_frames"]) == (6, 3)
    after = await gateway.until(
        lambda scrape: scrape.value("gateway_close_codes_total", route="scripted") == 2, "the end to be counted"
    )

    def grown(name: str, **labels: str) -> float:
        return after.value(name, route="scripted", **labels) - before.value(name, route="scripted", **labels)

    frames = "gateway_relayed_frames_total"
    counted = {
        opcode: grown(frames, direction="client_to_backend", opcode=opcode)
        for opcode in ("text", "binary", "continuation", "close", "ping", "pong")
    }
    assert counted == {"text": 1, "binary": 1, "continuation": 1, "close": 1, "ping": 1, "pong": 1}
    assert grown(frames, direction="backend_to_client", opcode="binary") == 2
    assert grown(frames, direction="backend_to_client", opcode="close") == 1
    assert grown("gateway_relayed_bytes_total", direction="client_to_backend") == sum(map(len, up)) + 8
    assert grown("gateway_relayed_bytes_total", direction="backend_to_client") == sum(map(len, down))
    assert grown("gateway_close_codes_total", side="backend", code="4xxx") == 1
    assert grown("gateway_close_codes_total", side="client", code="4xxx") == 1
    assert grown("gateway_tunnels_closed_total", initiator="backend", cause="close_frame") == 1


@pytest.mark.either_build
async def test_every_metric_of_the_contract_is_there(
    gateway: Gateway, open_connection: Open, scripted: Scripted
) -> None:
    scripted.answers(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    for data in (
        request("/web/x"),
        request("/nowhere"),
        handshake("/nowhere"),
        handshake("/dead/"),
        handshake("/scripted/refused"),
        b"nonsense\r\n\r\n",
        request("/web/x", "Sec-WebSocket-Key: x"),
    ):
        client = await open_connection(gateway)
        await client.send(data)
        await client.answer()
    live = await open_connection(gateway)
    await live.send(handshake("/echo/live"))
    assert (await live.head()).status == 101
    ended = await open_connection(gateway)
    await ended.send(handshake("/echo/ended"))
    assert (await ended.head()).status == 101
    await ended.close()
    await gateway.logged(event="tunnel_end", path="/echo/ended")
    scrape = await gateway.tunnels(1, route="echo")

    for name, (kind, labels) in CONTRACT.items():
        family = scrape.families.get(name)
        assert family is not None, f"{name} is missing"
        assert family.type == kind, name
        assert family.documentation, name
        assert family.samples, f"{name} has no samples"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels, sample

    results = {sample.labels["result"] for sample in scrape.samples("gateway_handshakes_total")}
    assert results >= {
        "upgraded",
        "refused_by_backend",
        "bad_request",
        "stripped_upgrade",
        "no_route",
        "connect_error",
    }
    idle = list(scrape.samples("gateway_tunnel_idle_seconds_bucket", route="echo"))
    assert [sample.labels["le"] for sample in idle] == IDLE_BOUNDS
    assert idle[-1].value == 1
    assert set(idle[0].labels) == {"route", "le"}

    drops = list(scrape.samples("gateway_drop_idle_seconds_bucket", route="echo", side="client"))
    assert [float(sample.labels["le"]) for sample in drops] == DROP_BOUNDS
    assert not list(scrape.samples("gateway_learned_cutoff_seconds"))

    (build,) = scrape.samples("gateway_build_info")
    assert set(build.labels) == {"version", "python", "relay"}
    assert build.labels["relay"] == (await gateway.api("status"))["relay"]
    assert scrape.value("gateway_workers") == 2
    assert scrape.value("gateway_backend_up", upstream="dead") == 0
    assert scrape.value("gateway_backend_up", upstream="echo") == 1


@pytest.mark.either_build
async def test_no_label_holds_what_a_client_sent(gateway: Gateway, open_connection: Open) -> None:
    """A stranger must not be able to make series."""
    client = await open_connection(gateway)
    await client.send(
        handshake("/echo/STRANGE-PATH?STRANGE-QUERY", "Origin: http://STRANGE-ORIGIN", host="STRANGE-HOST")
    )
    assert (await client.head()).status == 101
    await client.send(from_client(CLOSE, close(4711)))
    await client.ends()
    for data in (b"STRANGE-METHOD / HTTP/1.1\r\nHost: x\r\n\r\n", request("/web/x", method="BREW")):
        other = await open_connection(gateway)
        await other.send(data)
        await other.answer()
    scrape = await gateway.scrape()
    assert "STRANGE" not in scrape.text.upper().replace("STRANGER", "")
    labels = {label for family in scrape.families.values() for each in family.samples for label in each.labels.values()}
    assert labels.isdisjoint({"4711", client.name.rpartition(":")[2]})  # a value may hold these digits by chance
    assert client.name not in scrape.text


@pytest.mark.either_build
async def test_a_scraper_that_speaks_openmetrics_gets_it(gateway: Gateway) -> None:
    status, text = await gateway.get("/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert status == 200
    assert text.endswith("# EOF\n")


@pytest.mark.either_build
async def test_scrapes_at_once_are_served(gateway: Gateway) -> None:
    scrapes = await within(asyncio.gather(*(gateway.scrape() for _ in range(10))), "ten scrapes")
    assert all(scrape.value("gateway_workers") == 2 for scrape in scrapes)


async def test_close_frames_of_both_sides(gateway: Gateway, open_connection: Open) -> None:
    before = await gateway.scrape()
    client = await open_connection(gateway)
    await client.send(handshake("/echo/both"))
    assert (await client.head()).status == 101
    await client.send(from_client(CLOSE, close(1001)))
    assert await read_frame(client) == (CLOSE, close(1001))
    await client.close()
    await gateway.counts(before, "gateway_close_codes_total", route="echo", side="client", code="1001")
    await gateway.counts(before, "gateway_close_codes_total", route="echo", side="backend", code="1001")


async def test_a_side_that_is_kept_alive_and_then_dies(gateway: Gateway, open_connection: Open) -> None:
    kept = {"route": "kept", "side": "client"}
    before = await gateway.scrape()
    assert before.value("gateway_keepalive_interval_seconds", **kept) == 2
    assert not list(before.samples("gateway_keepalive_interval_seconds", route="kept", side="backend"))
    client = await open_connection(gateway)
    await client.send(handshake("/kept/ws"))
    assert (await client.head()).status == 101

    opcode, payload = await read_frame(client)
    assert opcode == PING
    asked = await gateway.counts(before, "gateway_keepalive_pings_sent_total", **kept)
    assert asked.value("gateway_keepalive_pongs_received_total", **kept) == 0
    await client.send(from_client(PONG, payload))
    after = await gateway.counts(before, "gateway_keepalive_pongs_received_total", **kept)
    assert after.value("gateway_keepalive_rtt_seconds_count", **kept) == 1
    assert 0 < after.value("gateway_keepalive_rtt_seconds_sum", **kept) < 2
    assert after.value("gateway_idle_gap_seconds_count", **kept) == 1
    assert 1.5 < after.value("gateway_idle_gap_seconds_sum", **kept) < 4
    assert after.value("gateway_keepalive_timeouts_total", **kept) == 0
    (tunnel,) = (await gateway.api("tunnels?route=kept"))["tunnels"]
    sides = tunnel["sides"]
    assert sides["client"]["interval_seconds"] == 2
    assert 0 < sides["client"]["last_rtt_seconds"] < 2
    assert sides["client"]["idle_seconds"] < 2
    assert (sides["backend"]["interval_seconds"], sides["backend"]["last_rtt_seconds"]) == (None, None)

    assert (await read_frame(client))[0] == PING  # and this one is not answered
    dead = await gateway.counts(before, "gateway_keepalive_timeouts_total", **kept)
    assert dead.value("gateway_keepalive_pings_sent_total", **kept) == 2
    await gateway.counts(
        before, "gateway_tunnels_closed_total", route="kept", initiator="gateway", cause="ping_timeout"
    )
    cut = await gateway.counts(before, "gateway_drop_idle_seconds_count", **kept)
    assert 1.5 < cut.value("gateway_drop_idle_seconds_sum", **kept) < 4
    assert not list(cut.samples("gateway_drop_idle_seconds_count", route="kept", side="backend"))
    # None of it has gone through the tunnel.
    assert cut.value("gateway_relayed_bytes_total", route="kept", direction="client_to_backend") == 0
    assert cut.value("gateway_relayed_frames_total", route="kept", opcode="ping") == 0
    assert cut.value("gateway_relayed_frames_total", route="kept", opcode="pong") == 0
    assert cut.value("gateway_keepalive_pings_sent_total", route="kept", side="backend") == 0
