"""``docs/metrics.md`` beside what a gateway that runs says: metrics, access log, API."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.admin.idle import IDLE_BUCKETS_SECONDS
from gateway.edge.tls.reasons import RESULTS as TLS_RESULTS
from gateway.observe.access_log import MAX_LINE, MAX_TEXT
from gateway.observe.events import DROP_BUCKETS, RESULTS
from gateway.tunnels.table.layout import CAUSES, GAP_BOUNDS_NS, SECOND, TEXTS
from tests.conftest import Backends, StartGateway
from tests.docs.pages import PAGES, ROOT, blocks, codes, rows
from tests.support.certificates import Authority
from tests.support.frames import CLOSE, close, from_client
from tests.support.gateway import Gateway, route
from tests.support.ports import free_port
from tests.support.raw import connect, handshake, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = ROOT / "docs" / "metrics.md"
NO_METRICS = {"gateway_backend"}
"""The name of a cookie."""

_SUFFIXES = re.compile(r"_(bucket|sum|count|gcount|gsum)$")
_OPENMETRICS = {"Accept": "application/openmetrics-text"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    start_shared_gateway: StartGateway, shared_backends: Backends, tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    """One that has had everything there is a metric of."""
    web = await shared_backends.web()
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    tls = {"certificates": [authority.issue("gateway.test").section]}
    users = authority.directory / "users"
    users.write_text("")
    targets = authority.directory / "targets.json"
    targets.write_text('[{"targets": ["127.0.0.1:1"]}]')
    tokens = {"keys": "http://127.0.0.1:1/", "algorithms": ["RS256"]}
    secure = f"127.0.0.1:{free_port()}"
    gateway = await start_shared_gateway(
        {
            "listen": [{"address": f"127.0.0.1:{free_port()}"}, {"address": secure, "tls": tls}],
            "keepalive": {"client": {"ping_after": "adaptive"}},
            "upstreams": {
                "web": {"backends": [web.address], "health_check": "tcp", "eject": True},
                "gone": {"backends": ["127.0.0.1:1"], "discover": {"file": str(targets)}},
            },
            "routes": [
                route("gone", "gone"),
                route("limited", "web", limits={"handshakes_per_second": {"per_client": 0.001}}),
                route("users", "web", auth={"basic": {"users": str(users)}}),
                route("tokens", "web", auth={"jwt": tokens}),
                route("web", "web"),
            ],
        }
    )
    gateway.tolerate("key set http://127.0.0.1:1/ cannot be fetched")
    limited = [handshake("/limited")] * 2
    plain_requests = [request(path) for path in ("/web", "/users", "/nowhere")]
    for head in (handshake("/gone"), handshake("/nowhere"), *plain_requests, *limited):
        connection = await gateway.connect()
        await connection.send(head)
        await connection.answer()
        await connection.close()
    plain = await connect(secure)
    await plain.send(request("/"))
    await plain.answer()
    await plain.close()
    await gateway.logged(event="tls_handshake")
    connection = await gateway.connect()
    await connection.send(handshake("/web/ws"))
    assert (await connection.head()).status == 101
    await connection.send(from_client(CLOSE, close(1000)))
    await connection.ends()
    await connection.close()
    await gateway.logged(event="tunnel_end")
    for _ in range(3):  # a few cuts after the same silence are a cutoff
        connection = await gateway.connect()
        await connection.send(handshake("/web/silent/ws"))
        assert (await connection.head()).status == 101
        assert await connection.is_quiet(1.5)
        await connection.close()
    await gateway.until(lambda scrape: scrape.value("gateway_learned_cutoff_seconds"), "the cutoff to be learned")
    return gateway


# --- metrics ----------------------------------------------------------------------------------------------------------


async def _scraped(gateway: Gateway) -> dict[str, tuple[str, set[str]]]:
    """Type and labels of every metric, by the name that it is asked for by."""
    status, text = await gateway.get("/metrics", _OPENMETRICS)
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        # A counter that shares its name with a gauge has no type in OpenMetrics.
        kind = {"gaugehistogram": "gauge histogram", "unknown": "counter"}.get(family.type, family.type)
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (kind, labels)
    return found


async def test_metrics_are_as_documented(gateway: Gateway) -> None:
    documented = {codes(row[0])[0]: (row[1], set(filter(None, row[2].split(", ")))) for row in rows(PAGE, "## Metrics")}
    assert documented == await _scraped(gateway)


async def test_no_other_metric_is_mentioned(gateway: Gateway) -> None:
    scraped = await _scraped(gateway)
    fields = {field for record in gateway.log_records() for field in record}
    for page in PAGES:
        for name in set(re.findall(r"\bgateway_[a-z_]+", page.read_text())) - NO_METRICS:
            assert {name, _SUFFIXES.sub("", name)} & scraped.keys() or name in fields, f"{page.name}: {name}"


async def test_bounds_are_as_documented() -> None:
    meanings = {codes(row[0])[0]: row[3] for row in rows(PAGE, "## Metrics")}
    bounds = {name: meaning.partition("`le` ")[2] for name, meaning in meanings.items() if "`le` " in meaning}
    assert bounds == {
        "gateway_tunnel_idle_seconds": " ".join(map(str, IDLE_BUCKETS_SECONDS)),
        "gateway_drop_idle_seconds": " ".join(map(str, DROP_BUCKETS)),
        "gateway_idle_gap_seconds": " ".join(str(bound // SECOND) for bound in GAP_BOUNDS_NS),
    }


async def test_results_and_causes_are_as_documented() -> None:
    named = {codes(row[0])[0] for row in rows(PAGE, "## Labels")}
    assert set(RESULTS) | set(CAUSES) | set(TLS_RESULTS) == named


# --- access log -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["handshake", "tunnel_end", "tls_handshake", "http"])
async def test_fields_of_the_log_are_as_documented(gateway: Gateway, event: str) -> None:
    documented = [codes(row[0])[0] for row in rows(PAGE, f"### `{event}`")]
    records = gateway.log_records(event=event)
    longest = max(records, key=len)
    assert list(longest) == ["time", "event", *documented]
    assert {field for record in records for field in record} == set(longest)
    shapes = {frozenset(record) for record in records}
    assert {frozenset(line) for line in _json_blocks() if line.get("event") == event} == shapes


async def test_lengths_of_texts_are_as_documented() -> None:
    said = {codes(row[0])[0]: re.findall(r"at most (\d+) characters", row[1]) for row in rows(PAGE, "### `tunnel_end`")}
    assert {name: int(found[0]) for name, found in said.items() if found} == TEXTS
    text = " ".join(PAGE.read_text().split())
    assert f"longer than {MAX_LINE:,} characters, its texts are cut to {MAX_TEXT} each" in text


# --- API --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "key"), [("status", "workers"), ("tunnels", "limit")])
async def test_answers_of_the_api_are_as_documented(gateway: Gateway, path: str, key: str) -> None:
    connection = await gateway.connect()
    await connection.send(handshake("/web/ws"))
    assert (await connection.head()).status == 101
    answer = await gateway.api(path)
    await connection.close()
    (shown,) = [block for block in _json_blocks() if key in block]
    assert _shape(shown) == _shape(answer)


def _json_blocks() -> list[dict[str, Any]]:
    return [json.loads(block.text) for block in blocks("json", pages=[PAGE])]


def _shape(value: object, path: str = "") -> dict[str, list[str]]:
    """The keys of every object in an answer, in order, by where it stands."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    if isinstance(value, dict):
        found[path] = list(value)
        for key, item in value.items():
            found |= _shape(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            found |= _shape(item, f"{path}[]")
    return dict(found)
