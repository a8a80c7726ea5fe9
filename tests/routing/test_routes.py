"""Which route a request gets, and what the route says."""

import pytest

from gateway.config.settings import Settings
from gateway.protocol.target import normal_path
from gateway.routing.registry import Registry
from gateway.routing.routes import NEVER_NS, NS, Keepalive, Routes

from .tables import config_of, found, routes_of


def matches(match, path="/", host="chat.example.com", subprotocols=()):
    return found(routes_of({"match": match}), path, host, subprotocols) is not None


def test_the_first_match_wins():
    routes = routes_of(
        {"match": {"path": "/ws/admin"}},
        {"match": {"path": "/ws"}},
        {"match": {"path_exact": "/ws/never"}},
        {"match": {"hosts": ["chat.example.com"]}},
    )
    assert found(routes, "/ws/admin/x") == "r0"
    assert found(routes, "/ws/x") == "r1"
    assert found(routes, "/ws/never") == "r1"
    assert found(routes, "/") == "r3"
    assert found(routes, "/", host="other.example.com") is None


@pytest.mark.parametrize("match", [{}, None, {"path": "/"}])
def test_no_condition_matches_everything(match):
    for path in ("/", "/ws", "*"):
        assert matches(match, path, host="")


@pytest.mark.parametrize("prefix", ["/ws", "/ws/"])
@pytest.mark.parametrize(
    ("path", "matched"),
    [
        ("/ws", True),
        ("/ws/", True),
        ("/ws/x", True),
        ("/ws//x", True),
        ("/wsx", False),
        ("/ws%2Fx", False),
        ("/w", False),
        ("/", False),
        ("/x/ws", False),
        ("/WS", False),
        ("//ws", False),
        ("*", False),
    ],
)
def test_a_prefix_ends_where_a_segment_does(prefix, path, matched):
    assert matches({"path": prefix}, path) == matched


@pytest.mark.parametrize(
    ("path", "matched"), [("/ws", True), ("/ws/", False), ("/ws/x", False), ("/wsx", False), ("/", False)]
)
def test_path_exact(path, matched):
    assert matches({"path_exact": "/ws"}, path) == matched


@pytest.mark.parametrize(
    ("regex", "path", "matched"),
    [
        ("^/rooms/[0-9]+$", "/rooms/12", True),
        ("^/rooms/[0-9]+$", "/rooms/12/x", False),
        ("^/rooms/[0-9]+$", "/x/rooms/12", False),
        ("/ws", "/a/wsx", True),
        ("(?i)/ws$", "/WS", True),
    ],
)
def test_path_regex(regex, path, matched):
    assert matches({"path_regex": regex}, path) == matched


@pytest.mark.parametrize("match", [{"path": "/caf%c3%a9"}, {"path_exact": "/caf%C3%A9"}])
def test_configured_paths_are_normalised_as_those_of_requests_are(match):
    assert matches(match, normal_path(b"/x/../%63af%C3%a9"))


@pytest.mark.parametrize(
    ("hosts", "host", "matched"),
    [
        (["chat.example.com"], "chat.example.com", True),
        (["Chat.Example.COM"], "chat.example.com", True),
        (["chat.example.com"], "x.chat.example.com", False),
        (["chat.example.com"], "example.com", False),
        (["chat.example.com"], "", False),
        (["*.example.com"], "chat.example.com", True),
        (["*.example.com"], "a.b.example.com", True),
        (["*.example.com"], "example.com", False),
        (["*.example.com"], ".example.com", False),
        (["*.example.com"], "evilexample.com", False),
        (["*.example.com"], "example.com.evil", False),
        (["*.example.com", "example.com"], "example.com", True),
        (["[::1]"], "[::1]", True),
        (["192.0.2.7"], "192.0.2.7", True),
    ],
)
def test_hosts(hosts, host, matched):
    assert matches({"hosts": hosts}, host=host) == matched


@pytest.mark.parametrize(
    ("offered", "matched"),
    [
        (["v11.stomp"], True),
        (["mqtt", "v10.stomp"], True),
        (["mqtt"], False),
        (["V10.STOMP"], False),
        ([], False),
    ],
)
def test_subprotocols(offered, matched):
    assert matches({"subprotocols": ["v10.stomp", "v11.stomp"]}, subprotocols=offered) == matched


def test_all_conditions_must_be_met():
    match = {"hosts": ["a"], "path": "/ws", "subprotocols": ["mqtt"]}
    assert matches(match, "/ws", "a", ["mqtt"])
    assert not matches(match, "/ws", "b", ["mqtt"])
    assert not matches(match, "/", "a", ["mqtt"])
    assert not matches(match, "/ws", "a", ["stomp"])


def test_what_a_route_says():
    routes = routes_of(
        {
            "timeouts": {"connect": "250ms", "idle": "1h", "response": "off"},
            "upgrades": ["websocket", "tcp"],
            "http": "reject",
        },
        {},
        timeouts={"connect": "2s", "close": "3s", "max_lifetime": "1h", "response": "1.5s"},
    )
    own, default = routes.routes
    assert (own.number, default.number) == (0, 1)
    assert own.upgrades == {b"websocket", b"tcp"}
    assert default.upgrades == {b"websocket"}
    assert (own.proxies_http, default.proxies_http) == (False, True)
    assert (own.limits.connect_ns, default.limits.connect_ns) == (250_000_000, 2_000_000_000)
    assert own.limits.close_ns == default.limits.close_ns == 3_000_000_000
    assert (own.limits.response_ns, default.limits.response_ns) == (NEVER_NS, 1_500_000_000)
    assert own.limits.request_body_ns == default.limits.request_body_ns == 60 * NS
    assert (own.limits.idle_ns, default.limits.idle_ns) == (3600 * 10**9, NEVER_NS)
    assert own.limits.max_lifetime_ns == 3600 * 10**9
    assert own.upstream is default.upstream is routes.upstreams["chat"]


def test_how_many_connections_an_upstream_keeps():
    upstreams = {
        "chat": {"backends": ["a:1"]},
        "few": {"backends": ["a:1"], "pool": {"idle": "1.5s", "size": 2}},
        "none": {"backends": ["a:1"], "pool": "off"},
    }
    made = routes_of({}, upstreams=upstreams).upstreams.values()
    assert [(upstream.pool_idle_ns, upstream.pool_size) for upstream in made] == [
        *((15 * NS, 64), (1_500_000_000, 2), (0, 0))
    ]


def test_how_a_route_keeps_its_sides_alive():
    routes = routes_of(
        {"keepalive": {"client": {"ping_after": "1.5s"}, "backend": "off"}},
        {"keepalive": {"client": {"ping_after": "off"}, "backend": {"max": "10s"}}},
        {"keepalive": {"backend": {"min": "40s", "pong_timeout": "1s"}}},
        {},
        keepalive={"client": {"pong_timeout": "3s"}, "backend": {"ping_after": "adaptive", "min": "2s"}},
    )
    bounds = {"min_ns": 5 * NS, "max_ns": 240 * NS}
    fixed, off, high, plain = (route.keepalive for route in routes.routes)
    assert fixed == (
        Keepalive(ping_after_ns=1_500_000_000, pong_timeout_ns=3 * NS, adaptive=False, **bounds),
        Keepalive(ping_after_ns=NEVER_NS, pong_timeout_ns=20 * NS, adaptive=False, **bounds),
    )
    assert off[0] == Keepalive(ping_after_ns=NEVER_NS, pong_timeout_ns=3 * NS, adaptive=False, **bounds)
    assert off[1] == Keepalive(10 * NS, 20 * NS, min_ns=2 * NS, max_ns=10 * NS, adaptive=True)
    assert high[1] == Keepalive(40 * NS, 1 * NS, min_ns=40 * NS, max_ns=240 * NS, adaptive=True)
    assert plain[0] == Keepalive(25 * NS, 3 * NS, adaptive=False, **bounds)
    assert plain[1] == Keepalive(25 * NS, 20 * NS, min_ns=2 * NS, max_ns=240 * NS, adaptive=True)


def test_both_sides_are_kept_alive_by_default():
    (route,) = routes_of({}).routes
    client, backend = route.keepalive
    assert client == backend == Keepalive(25 * NS, 20 * NS, min_ns=5 * NS, max_ns=240 * NS, adaptive=False)


def test_backends_keep_their_numbers_over_a_reload():
    registry = Registry(100, 100)
    first = config_of([{}], {"chat": {"backends": ["a:1", {"address": "b:1", "weight": 3}]}})
    registry.admit(first)
    second = config_of([{"name": "new"}, {}], {"chat": {"backends": ["c:1", "b:1"]}, "other": {"backends": ["b:1"]}})
    registry.admit(second)
    old = Routes(Settings.of(first), registry, lambda number: 0)
    new = Routes(Settings.of(second), registry, lambda number: 0)
    assert [(t.label, t.number, t.weight) for t in old.upstreams["chat"].targets] == [("a:1", 0, 1), ("b:1", 1, 3)]
    assert [(t.label, t.number) for t in new.upstreams["chat"].targets] == [("c:1", 2), ("b:1", 1)]
    assert [(t.label, t.number, t.upstream) for t in new.upstreams["other"].targets] == [("b:1", 3, "other")]
    assert [(route.name, route.number) for route in new.routes] == [("new", 1), ("r1", 2)]


def test_a_configuration_that_the_registry_was_not_shown():
    with pytest.raises(ValueError, match="is not in list"):
        Routes(Settings.of(config_of([{}])), Registry(100, 100), lambda number: 0)
