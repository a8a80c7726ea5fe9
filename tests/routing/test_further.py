"""Conditions on fields, parameters and methods: what is checked is what a backend gets."""

import pytest

from gateway.routing.further import Looks
from gateway.routing.matching import Asked

from ..protocol.heads import request_head
from .tables import routes_of


def route_of(match, line=b"GET / HTTP/1.1", *fields):
    """The route that a request gets of two: the first has the conditions."""
    routes = routes_of({"match": match}, {})
    return routes.find(request_head(line, b"Host: a", *fields)).route.name == "r0"


@pytest.mark.parametrize(
    ("fields", "matched"),
    [
        ([b"X-Tier: gold"], True),
        ([b"x-tier:gold  "], True),
        ([b"X-Tier: Gold"], False),
        ([b"X-Tier: gold, silver"], False),
        ([b"X-Tier: gold", b"X-Tier: silver"], False),
        ([b"X-Tier: silver", b"X-Tier: gold"], False),
        ([b"X-Tier: gold", b"X-Tier: gold"], False),
        ([b"X_Tier: gold"], False),
        ([b"X-Tier: gold", b"Connection: x-tier"], False),  # no backend would see it
        ([b"X-Tier: gold", b"Connection: close"], True),
        ([], False),
    ],
)
def test_a_field_has_exactly_one_value(fields, matched):
    assert route_of({"headers": {"X-Tier": "gold"}}, b"GET / HTTP/1.1", *fields) == matched


def test_several_lines_are_one_list():
    assert route_of({"headers": {"X-Tier": "gold, silver"}}, b"GET / HTTP/1.1", b"X-Tier: gold", b"X-Tier: silver")


def test_fields_that_no_connection_option_takes_away():
    kept = (b"Cookie: a=b", b"Connection: cookie")  # named or not, it goes on (RFC 9110 section 7.6.1 has no cookies)
    assert route_of({"headers": {"Cookie": "a=b"}}, b"GET / HTTP/1.1", *kept)
    asks = (b"Upgrade: websocket", b"Connection: Upgrade")
    assert route_of({"headers": {"Upgrade": "websocket"}}, b"GET / HTTP/1.1", *asks)


@pytest.mark.parametrize(
    ("query", "matched"),
    [
        (b"?v=2", True),
        (b"?a=b&v=2&c", True),
        (b"?%76=%32", True),
        (b"?v=2&v=2", True),
        (b"?v=1&v=2", False),
        (b"?v=2&v=1", False),
        (b"?v=2&v", False),
        (b"?v=2&%76=1", False),
        (b"?V=2", False),
        (b"?v=2;x=1", False),
        (b"?v", False),
        (b"?v=", False),
        (b"?v==2", False),
        (b"?", False),
        (b"", False),
        (b"?&&v=2&", True),
        (b"?v=2%", False),
    ],
)
def test_a_parameter_has_one_value(query, matched):
    assert route_of({"query": {"v": "2"}}, b"GET /%b HTTP/1.1" % query) == matched
    assert route_of({"query": {"v": "2"}}, b"GET http://a/%b HTTP/1.1" % query) == matched


@pytest.mark.parametrize(
    ("name", "value", "query"),
    [
        ("a b", "c d", b"?a+b=c%20d"),
        ("é", "ü", b"?%C3%A9=%c3%bc"),
        ("debug", "", b"?debug"),
        ("debug", "", b"?debug="),
        ("x", "%zz", b"?x=%zz"),
        ("x", "a=b", b"?x=a=b"),
    ],
)
def test_names_and_values_are_decoded(name, value, query):
    assert route_of({"query": {name: value}}, b"GET /%b HTTP/1.1" % query)


def test_methods():
    conditions = {"methods": ["POST", "PUT"]}
    assert [route_of(conditions, b"%b / HTTP/1.1" % method) for method in (b"GET", b"POST", b"PUT", b"HEAD")] == [
        False,
        True,
        True,
        False,
    ]


def test_all_conditions_must_be_met():
    conditions = {"headers": {"X": "1", "Y": "2"}, "query": {"v": "2"}, "methods": ["GET"], "path": "/a"}
    assert route_of(conditions, b"GET /a?v=2 HTTP/1.1", b"X: 1", b"Y: 2")
    assert not route_of(conditions, b"GET /a?v=2 HTTP/1.1", b"X: 1")
    assert not route_of(conditions, b"GET /a HTTP/1.1", b"X: 1", b"Y: 2")
    assert not route_of(conditions, b"PUT /a?v=2 HTTP/1.1", b"X: 1", b"Y: 2")
    assert not route_of(conditions, b"GET /b?v=2 HTTP/1.1", b"X: 1", b"Y: 2")


def test_requests_that_differ_in_what_a_route_looks_at_share_no_answer():
    routes = routes_of(
        {"match": {"headers": {"X-Tier": "gold"}}},
        {"match": {"query": {"v": "2"}}},
        {"match": {"methods": ["POST"]}},
        {},
    )
    asked = [
        (b"GET / HTTP/1.1", b"X-Tier: gold"),
        (b"GET /?v=2 HTTP/1.1",),
        (b"POST / HTTP/1.1",),
        (b"GET / HTTP/1.1",),
    ]
    for _ in range(2):  # found, then known
        found = [routes.find(request_head(line, b"Host: a", *fields)).route.name for line, *fields in asked]
        assert found == ["r0", "r1", "r2", "r3"]


def test_requests_are_told_apart_by_nothing_else():
    routes = routes_of({"match": {"headers": {"X-Tier": "gold"}, "query": {"v": "2"}}}, {})
    for number in range(50):
        routes.find(request_head(b"GET /?u=%d HTTP/1.1" % number, b"Host: a", b"X-Other: %d" % number))
    assert len(routes.known) == 1


def test_nothing_is_looked_at_that_no_route_asks_for():
    assert Looks.of([]) is None
    routes = routes_of({"match": {"path": "/a"}}, {})
    routes.find(request_head(b"GET /?v=2 HTTP/1.1", b"Host: a"))
    routes.find(request_head(b"POST /?v=3 HTTP/1.1", b"Host: a"))
    assert len(routes.known) == 1


def test_long_values_are_not_kept():
    head = request_head(b"GET /?v=%b HTTP/1.1" % (b"2" * 600), b"Host: a")
    routes = routes_of({"match": {"query": {"v": "2"}}}, {})
    assert routes.find(head).route.name == "r1"
    assert len(routes.known) == 0
    assert Asked.by(head, routes._looks).size() > 600
