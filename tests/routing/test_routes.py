"""Which route a request gets, and what the route says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.settings import Settings
from gateway.protocol.heads import BadHead
from gateway.routing.limits import NEVER_NS, NS, Keepalive
from gateway.routing.registry import Registry
from gateway.routing.routes import MAX_KNOWN, MAX_KNOWN_BYTES, NoRoute, Routes

from ..protocol.heads import request_head
from .standing import FakeStanding
from .tables import config_of, found, routes_of


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
    old = Routes(Settings.of(first), registry, FakeStanding())
    new = Routes(Settings.of(second), registry, FakeStanding())
    assert [(t.label, t.number, t.weight) for t in old.upstreams["chat"].targets] == [("a:1", 0, 1), ("b:1", 1, 3)]
    assert [(t.label, t.number) for t in new.upstreams["chat"].targets] == [("c:1", 2), ("b:1", 1)]
    assert [(t.label, t.number, t.upstream) for t in new.upstreams["other"].targets] == [("b:1", 3, "other")]
    assert [(route.name, route.number) for route in new.routes] == [("new", 1), ("r1", 2)]


def test_a_configuration_that_the_registry_was_not_shown():
    with pytest.raises(ValueError, match="no number for"):
        Routes(Settings.of(config_of([{}])), Registry(100, 100), FakeStanding())


# --- what was found is kept -------------------------------------------------------------------------------------------


def head(path=b"/ws", host=b"a.example", *fields, method=b"GET"):
    return request_head(b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, *fields)


OFFER = b"Sec-WebSocket-Protocol: "
DIFFERENT = [
    head(),
    head(b"/ws/../other"),
    head(b"/WS"),
    head(b"/%77s"),
    head(host=b"b.example"),
    head(host=b"A.EXAMPLE:80"),
    head(b"/ws", b"a.example", OFFER + b"v1"),
    head(b"/ws", b"a.example", OFFER + b"v2"),
    head(b"/ws", b"a.example", OFFER + b"v2, v1"),
    head(b"/ws", b"a.example", OFFER + b"v2", OFFER + b"v1"),
    head(b"http://a.example/ws"),
    head(b"/ws?x"),
    head(b"*", method=b"OPTIONS"),
    head(b"/ws", b"a.example", b"Accept: v1"),
]


def some_routes():
    return routes_of(
        {"match": {"path": "/ws", "subprotocols": ["v1"]}},
        {"match": {"path": "/ws", "hosts": ["b.example"]}},
        {"match": {"path_exact": "/WS"}},
        {"match": {"path": "/ws"}},
        {},
    )


@given(st.lists(st.sampled_from(DIFFERENT), min_size=2, max_size=40))
def test_no_request_gets_what_another_has_found(heads):
    routes = some_routes()
    for each in heads:
        found = routes.find(each)
        fresh = some_routes().find(each)
        assert (found.route.name, found.host, found.path) == (fresh.route.name, fresh.host, fresh.path)


def test_what_was_found_is_not_looked_for_again():
    routes = some_routes()
    first = routes.find(head(b"/ws/%7Ea"))
    assert (first.route.name, first.host, first.path) == ("r3", "a.example", "/ws/%7Ea")
    assert routes.find(head(b"/ws/%7Ea", b"a.example", b"Accept: */*")) is first


def test_what_is_kept_is_bounded():
    routes = some_routes()
    long = head(b"/" + b"a" * MAX_KNOWN_BYTES)
    assert routes.find(long) is not routes.find(long)
    assert len(routes.known) == 0
    for number in range(3 * MAX_KNOWN):
        routes.find(head(b"/%d" % number))
    assert MAX_KNOWN // 2 <= len(routes.known) <= MAX_KNOWN


def test_what_others_ask_for_all_the_time_is_kept_whatever_a_client_asks_for():
    routes = some_routes()
    usual = routes.find(head())
    for number in range(3 * MAX_KNOWN):
        routes.find(head(b"/%d" % number))
        if not number % 100:
            assert routes.find(head()) is usual


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/a%2Fb/../~c", "rest"),
        (b"/x//../y", "rest"),
        (b"/admin/a%2fb/../c", "admin"),
        (b"/admin//../admin/x", "admin"),
        (b"/admin%2fx/../y", None),
        (b"/admin//../y", None),
        (b"/admin/;x/../y", None),
        (b"/x//../admin", None),
    ],
)
def test_dot_segments_that_would_lead_some_backends_to_what_another_route_is_for(path, route):
    routes = routes_of({"name": "admin", "match": {"path": "/admin"}}, {"name": "rest"})
    for _ in range(2):
        if route is None:
            with pytest.raises(BadHead, match="different paths") as caught:
                routes.find(head(path))
            assert caught.value.status == 400
        else:
            assert routes.find(head(path)).route.name == route


def test_no_route_and_bad_targets_are_not_kept():
    routes = routes_of({"match": {"hosts": ["a"]}})
    for _ in range(2):
        with pytest.raises(NoRoute, match="no route for host 'b' and path '/x%0Ay'"):
            routes.find(head(b"/x%0ay", b"B:1"))
        with pytest.raises(BadHead, match="not every server"):
            routes.find(head(b"/x/..;/y", b"a"))
    assert len(routes.known) == 0
