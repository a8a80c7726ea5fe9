"""What the admin API says, and what it says to queries that make no sense."""

import json
import time

import pytest

from gateway.admin import api
from gateway.admin.api import BadQuery, TunnelQuery, parse_query, status, tunnels
from gateway.admin.state import CredentialState
from gateway.protocol.scanner_state import BROKEN, CLOSED, STATUS
from gateway.tunnels.table.layout import ID, PONG_NS, SCANNER, SIDE_0, SIDE_CELLS, T_CUTOFF_NS, T_INTERVAL_NS

from .gateways import CONFIG, NS, FakeGateway

PLAIN = {
    **dict.fromkeys(("max_tunnels", "health", "since", "reason", "ejected_until")),
    "backup": False,
}
"""of a backend without options"""

RULES = {"hash_on": None, "slow_start": 30.0, "health_check": None, "eject": None, "rebalance": None}
"""of an upstream without options"""


@pytest.fixture
def gateway():
    gateway = FakeGateway()
    yield gateway
    gateway.table.close()


def listed(gateway: FakeGateway, **parameters: str) -> dict:
    """What a request with these parameters gets, as a client reads it."""
    query = parse_query(parameters.items(), gateway.state.registry)
    return json.loads(json.dumps(tunnels(gateway.state, query), allow_nan=False))


def paths(answer: dict) -> list[str]:
    return [tunnel["path"] for tunnel in answer["tunnels"]]


# --- status --------------------------------------------------------------------------------------------------------


def test_status_says_what_it_knows_of_users_and_keys(gateway):
    assert status(gateway.state)["credentials"] == []
    gateway.state.credentials = [
        CredentialState("/etc/us\udcffers", "users", 12, None, "gone"),
        CredentialState("https://auth.example/keys", "keys", None, 1.5, None),
    ]
    assert json.loads(json.dumps(status(gateway.state)))["credentials"] == [
        {"source": "/etc/us\ufffders", "kind": "users", "entries": 12, "fetched": None, "error": "gone"},
        {"source": "https://auth.example/keys", "kind": "keys", "entries": None, "fetched": 1.5, "error": None},
    ]


def test_status_says_what_runs_and_what_it_does(gateway):
    gateway.open(slot=0)
    gateway.open(slot=1, client_idle=70, backend_idle=80)
    gateway.open("feed", ("feed", "unix:/run/feed.sock"), slot=1)
    gateway.slices[0].note_connect(1, False, 5)
    gateway.state.started_unix = time.time() - 100
    answer = status(gateway.state)
    assert answer["version"]
    assert answer["relay"] in ("compiled", "pure")
    assert 100 <= answer["uptime"] < 160
    assert (answer["ready"], answer["stopping"], answer["tunnels"], answer["demo"]) == (True, False, 3, None)
    assert answer["listen"] == ["0.0.0.0:8080"]
    assert answer["configuration"]["file"] == "gateway.yaml"
    assert answer["configuration"]["last_reload"] == {
        "ok": True,
        "time": gateway.state.last_reload_unix,
        "error": None,
    }
    assert [(worker["index"], worker["pid"], worker["tunnels"]) for worker in answer["workers"]] == [
        (0, 4000, 1),
        (1, 4001, 2),
    ]
    assert all(abs(time.time() - worker["started"]) < 60 for worker in answer["workers"])
    assert [(route["name"], route["upstream"], route["tunnels"]) for route in answer["routes"]] == [
        ("chat", "chat", 2),
        ("feed", "feed", 1),
    ]
    assert [bucket for bucket in answer["routes"][0]["idle"] if bucket["tunnels"]] == [
        {"le": 1, "tunnels": 1},
        {"le": 120, "tunnels": 1},
    ]
    assert answer["upstreams"] == [
        {
            "name": "chat",
            "balance": "round_robin",
            "rules": RULES,
            "discovery": None,
            "backends": [
                {"address": "127.0.0.1:9001", "up": True, "drained": False, "weight": 1, **PLAIN, "tunnels": 2},
                {"address": "chat2.internal:9001", "up": False, "drained": False, "weight": 2, **PLAIN, "tunnels": 0},
            ],
        },
        {
            "name": "feed",
            "balance": "least_tunnels",
            "rules": RULES,
            "discovery": None,
            "backends": [
                {"address": "unix:/run/feed.sock", "up": True, "drained": False, "weight": 1, **PLAIN, "tunnels": 1}
            ],
        },
    ]


def test_a_worker_that_is_being_replaced_has_no_pid(gateway):
    gateway.open(slot=1)
    gateway.stop(1)
    assert status(gateway.state)["workers"][1] == {
        "index": 1,
        "pid": None,
        "started": None,
        "ready": False,
        "tunnels": 1,
    }


def test_a_reload_that_failed(gateway):
    gateway.state.last_reload_ok = False
    gateway.state.last_reload_error = "gateway.yaml:1:1: file: …"
    assert status(gateway.state)["configuration"]["last_reload"]["error"] == "gateway.yaml:1:1: file: …"


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0:8080", "ws://127.0.0.1:8080/"),
        ("[::]:8080", "ws://localhost:8080/"),
        ("[::1]:8080", "ws://[::1]:8080/"),
        ("192.0.2.7:80", "ws://192.0.2.7:80/"),
        ("unix:/run/gateway.sock", None),
    ],
)
def test_the_demo_says_where_a_browser_reaches_the_gateway(listen, url):
    gateway = FakeGateway(CONFIG.replace("0.0.0.0:8080", listen), demo=True)
    assert status(gateway.state)["demo"] == {"url": url}
    gateway.table.close()


def test_a_configuration_file_whose_name_is_not_utf_8(gateway):
    gateway.state.config_path = "/etc/\udcff.yaml"
    assert status(gateway.state)["configuration"]["file"] == "/etc/\N{REPLACEMENT CHARACTER}.yaml"


def test_status_says_how_routes_are_kept_alive():
    gateway = FakeGateway("keepalive: {client: {ping_after: adaptive}, backend: off}\n" + CONFIG)
    gateway.note(0, "client", {T_INTERVAL_NS: 48 * NS, T_CUTOFF_NS: 60 * NS})
    gateway.note(1, "client", {T_INTERVAL_NS: 200 * NS})
    routes = {route["name"]: route["keepalive"] for route in status(gateway.state)["routes"]}
    gateway.table.close()
    off = {"interval_seconds": None, "learned_cutoff_seconds": None}
    assert routes == {
        "chat": {"client": {"interval_seconds": 48, "learned_cutoff_seconds": 60}, "backend": off},
        "feed": {"client": {"interval_seconds": 25, "learned_cutoff_seconds": None}, "backend": off},
    }


# --- tunnels -------------------------------------------------------------------------------------------------------


def test_a_tunnel_in_full(gateway):
    row = gateway.open(
        backend=("chat", "chat2.internal:9001"),
        slot=1,
        age=100,
        client_idle=20,
        backend_idle=3,
        counts=(10, 2, 4000, 5),
        ping_after=(25, 47.5),
        rtt=(0.0385, 0),
        texts={"subprotocol": b"v12.stomp", "request_id": b"abc"},
    )
    answer = listed(gateway)
    (tunnel,) = answer.pop("tunnels")
    assert answer == {"total": 1, "limit": 1000}
    sides = tunnel.pop("sides")
    assert sides["client"].pop("idle_seconds") == pytest.approx(20, abs=5)
    assert sides["backend"].pop("idle_seconds") == pytest.approx(3, abs=5)
    assert sides == {
        "client": {"bytes": 10, "frames": 2, "last_rtt_seconds": 0.0385, "interval_seconds": 25},
        "backend": {"bytes": 4000, "frames": 5, "last_rtt_seconds": None, "interval_seconds": 47.5},
    }
    assert tunnel.pop("opened") == pytest.approx(time.time() - 100, abs=5)
    assert tunnel.pop("age_seconds") == pytest.approx(100, abs=5)
    assert tunnel.pop("idle_seconds") == pytest.approx(3, abs=5)
    assert tunnel == {
        "id": f"{gateway.table.cells[row + ID]:x}",
        "route": "chat",
        "upstream": "chat",
        "backend": "chat2.internal:9001",
        "client_address": "192.0.2.7:5000",
        "host": "chat.example.com",
        "path": "/ws/room",
        "subprotocol": "v12.stomp",
        "request_id": "abc",
        "worker": 1,
    }


def test_what_a_tunnel_does_not_have_is_null(gateway):
    gateway.open()
    (tunnel,) = listed(gateway)["tunnels"]
    assert (tunnel["subprotocol"], tunnel["request_id"]) == (None, None)


def test_a_side_that_is_sent_no_pings_has_no_interval(gateway):
    gateway.open(ping_after=(None, 25))
    (tunnel,) = listed(gateway)["tunnels"]
    assert [tunnel["sides"][side]["interval_seconds"] for side in ("client", "backend")] == [None, 25]


@pytest.mark.parametrize("stopped", [BROKEN, CLOSED])
@pytest.mark.parametrize("side", [0, 1])
def test_no_side_has_an_interval_once_a_stream_is_not_scanned_any_more(gateway, stopped, side):
    row = gateway.open(ping_after=(25, 25))
    gateway.table.cells[row + SIDE_0 + side * SIDE_CELLS + SCANNER + STATUS] = stopped
    (tunnel,) = listed(gateway)["tunnels"]
    assert [side["interval_seconds"] for side in tunnel["sides"].values()] == [None, None]


def test_a_pong_to_the_gateway_ends_a_silence(gateway):
    row = gateway.open(age=500, client_idle=400, backend_idle=300)
    gateway.table.cells[row + SIDE_0 + PONG_NS] = time.monotonic_ns() - 20 * NS
    (tunnel,) = listed(gateway)["tunnels"]
    assert tunnel["sides"]["client"]["idle_seconds"] == pytest.approx(20, abs=5)
    assert tunnel["sides"]["backend"]["idle_seconds"] == pytest.approx(300, abs=5)
    assert tunnel["idle_seconds"] == pytest.approx(20, abs=5)


def test_the_most_silent_come_first_and_the_total_ignores_the_limit(gateway):
    for index, idle in enumerate((5, 500, 50)):
        gateway.open(age=1000, client_idle=idle, backend_idle=idle, texts={"path": b"/%d" % idle}, slot=index % 2)
    assert paths(listed(gateway)) == ["/500", "/50", "/5"]
    answer = listed(gateway, limit="2")
    assert (answer["total"], answer["limit"], paths(answer)) == (3, 2, ["/500", "/50"])


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["/old", "/feed", "/new"]),
        ({"route": "feed"}, ["/feed"]),
        ({"backend": "127.0.0.1:9001"}, ["/old", "/new"]),
        ({"backend": "unix:/run/feed.sock"}, ["/feed"]),
        ({"backend": "CHAT2.internal:9001"}, []),
        ({"idle_over": "60"}, ["/old", "/feed"]),
        ({"idle_over": "60.5"}, ["/old", "/feed"]),
        ({"idle_over": "5m"}, ["/old"]),
        ({"idle_over": "0"}, ["/old", "/feed", "/new"]),
        ({"idle_over": "1h"}, []),
        ({"route": "chat", "idle_over": "60s", "limit": "5"}, ["/old"]),
    ],
)
def test_filters(gateway, parameters, expected):
    gateway.open(age=5000, client_idle=1000, backend_idle=1000, texts={"path": b"/old"})
    gateway.open(age=5000, client_idle=1, backend_idle=1000, texts={"path": b"/new"})
    feed = ("feed", "unix:/run/feed.sock")
    gateway.open("feed", feed, age=5000, client_idle=200, backend_idle=100, texts={"path": b"/feed"})
    assert paths(listed(gateway, **parameters)) == expected


def test_a_tunnel_that_ends_while_it_is_read_is_left_out(gateway, monkeypatch):
    gateway.open(texts={"path": b"/stays"})
    row = gateway.open(texts={"path": b"/ends"}, client_idle=50, backend_idle=50)
    read_texts = gateway.table.texts

    def texts_of_a_tunnel_that_ends(at):
        found = read_texts(at)
        if at == row:
            gateway.close(row)
        return found

    monkeypatch.setattr(gateway.table, "texts", texts_of_a_tunnel_that_ends)
    assert paths(listed(gateway)) == ["/stays"]


def test_hostile_texts_are_valid_json(gateway):
    hostile = b'"\\</script>\x00\n\x1b[31m\xe2\x80\xae\xff\xed\xa0\x80'
    gateway.open(texts=dict.fromkeys(("client", "host", "path", "subprotocol", "request_id"), hostile))
    (tunnel,) = listed(gateway)["tunnels"]
    assert tunnel["path"] == hostile.decode("utf-8", "replace")
    tunnel_text = json.dumps(tunnels(gateway.state, TunnelQuery()))
    tunnel_text.encode("ascii")


# --- queries that make no sense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        (
            [("rout", "chat")],
            'unknown parameter "rout" (did you mean route? there are: route, backend, idle_over, limit)',
        ),
        ([("route", "chat"), ("route", "feed")], "route is given twice (once)"),
        ([("route", "chta")], 'there is no route "chta" (did you mean chat? there are: chat, feed)'),
        (
            [("backend", "10.9.9.9:1")],
            'there is no backend "10.9.9.9:1" (there are: 127.0.0.1:9001, chat2.internal:9001,',
        ),
        ([("backend", "10.9.9.9")], 'backend: "10.9.9.9" has no port (10.9.9.9:8080)'),
        ([("idle_over", "soon")], 'idle_over is "soon" (seconds or a duration, such as 60, 90s or 5m)'),
        ([("idle_over", "")], 'idle_over is "" (seconds or a duration'),
        ([("idle_over", "-1")], 'idle_over is "-1" (seconds or a duration'),
        ([("idle_over", "inf")], 'idle_over is "inf" (seconds or a duration'),
        ([("idle_over", "off")], 'idle_over is "off" (seconds or a duration'),
        ([("limit", "0")], 'limit is "0" (a number from 1 to 1048576)'),
        ([("limit", "many")], 'limit is "many" (a number'),
        ([("limit", "²")], 'limit is "²" (a number'),
        ([("limit", "9" * 5000)], 'limit is "999'),
    ],
)
def test_a_query_that_makes_no_sense(gateway, items, complaint):
    with pytest.raises(BadQuery) as error:
        parse_query(items, gateway.state.registry)
    assert str(error.value).startswith(complaint)
    assert len(str(error.value)) < 400


def test_a_route_that_was_configured_away_can_still_be_asked_for(gateway):
    gateway.open("feed", ("feed", "unix:/run/feed.sock"))
    after = FakeGateway(CONFIG.replace("  - {name: feed, upstream: feed}\n", ""))
    gateway.state.config = after.state.config
    after.table.close()
    assert [route["name"] for route in status(gateway.state)["routes"]] == ["chat"]
    assert listed(gateway, route="feed")["total"] == 1


def test_the_default_limit():
    assert TunnelQuery().limit == api.DEFAULT_LIMIT == 1000
