"""Routes that no request can reach: never claimed of one that a request does reach."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Match, load_with_doubts
from gateway.config.matching import check_path
from gateway.config.reach import takes_all_of
from gateway.config.settings import Match as Conditions
from gateway.routing.further import Looks
from gateway.routing.matching import Asked, Subject, condition_of
from tests.support.examples import examples

from ..protocol.heads import request_head


def warnings(tmp_path, *routes):
    document = {
        "listen": [{"address": "0.0.0.0:8080"}],
        "upstreams": {"chat": {"backends": ["127.0.0.1:9001"]}},
        "routes": [{"name": f"r{at}", "upstream": "chat"} | route for at, route in enumerate(routes)],
    }
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(document))
    return [str(doubt).partition(": ")[2] for doubt in load_with_doubts(file, {})[1]]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({}, {}),
        ({}, {"hosts": ["a.example"], "path": "/x", "methods": ["GET"]}),
        ({"path": "/"}, {"path_regex": "^/x"}),
        ({"path": "/ws"}, {"path": "/ws/"}),
        ({"path": "/ws/"}, {"path": "/ws"}),
        ({"path": "/ws"}, {"path": "/ws/inner"}),
        ({"path": "/ws"}, {"path_exact": "/ws"}),
        ({"path_exact": "/ws"}, {"path_exact": "/ws", "hosts": ["a.example"]}),
        ({"path_regex": "^/x"}, {"path_regex": "^/x"}),
        ({"path_regex": "^/x"}, {"path_exact": "/xy"}),
        ({"hosts": ["*.example"]}, {"hosts": ["a.example", "*.b.example", "*.example"]}),
        ({"subprotocols": ["a", "b"]}, {"subprotocols": ["b"]}),
        ({"headers": {"X-Tier": "gold"}}, {"headers": {"x-tier": "gold", "X-More": "1"}}),
        ({"query": {"v": "2"}}, {"query": {"v": "2", "w": "3"}}),
        ({"methods": ["GET", "POST"]}, {"methods": ["POST"]}),
    ],
)
def test_a_route_that_an_earlier_one_hides(tmp_path, earlier, later):
    assert warnings(tmp_path, {"match": earlier}, {"match": later}) == [
        'routes[1].name: warning: no request reaches this route: "r0", before it, takes them all'
        " (the narrower one first, or not at all)"
    ]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"path": "/ws"}, {"path": "/wsx"}),
        ({"path": "/ws/inner"}, {"path": "/ws"}),
        ({"path_exact": "/ws"}, {"path": "/ws"}),
        ({"path_exact": "/ws"}, {"path_exact": "/ws/"}),
        ({"path_regex": "^/x"}, {"path": "/x"}),
        ({"path_regex": "^/x$"}, {"path_exact": "/xy"}),
        ({"path": "/ws"}, {"path_regex": "^/ws"}),
        ({"path": "/ws"}, {}),
        ({"hosts": ["*.example"]}, {"hosts": ["a.example", "example"]}),
        ({"hosts": ["*.example"]}, {"hosts": ["aexample"]}),
        ({"hosts": ["a.example"]}, {"hosts": ["*.a.example"]}),
        ({"hosts": ["a.example"]}, {}),
        ({"subprotocols": ["a"]}, {"subprotocols": ["a", "b"]}),
        ({"subprotocols": ["a"]}, {}),
        ({"headers": {"X-Tier": "gold"}}, {"headers": {"X-Tier": "silver"}}),
        ({"headers": {"X-Tier": "gold"}}, {}),
        ({"query": {"v": "2", "w": "3"}}, {"query": {"v": "2"}}),
        ({"methods": ["GET"]}, {"methods": ["GET", "POST"]}),
        ({"methods": ["GET"]}, {}),
    ],
)
def test_a_route_that_is_reached(tmp_path, earlier, later):
    assert warnings(tmp_path, {"match": earlier}, {"match": later}) == []


def test_what_a_hidden_route_does_is_of_no_matter(tmp_path):
    hidden = {"match": {"path": "/a"}, "origins": ["https://a.example"]}
    assert len(warnings(tmp_path, hidden, {"match": {"path": "/a/b"}}, {"match": {"path": "/a"}})) == 2


def test_prefixes_that_no_path_has(tmp_path):
    def route(match, prefix):
        return {"match": match, "rewrite": {"strip_prefix": prefix}}

    assert warnings(
        tmp_path,
        route({"path": "/ws"}, "/wss"),
        route({"path": "/a"}, "/a/b"),
        route({"path": "/b/c"}, "/b/"),
        route({"path_exact": "/d"}, "/d/e"),
        route({"path_regex": "^/x"}, "/y"),
        route({}, "/z"),
    ) == [
        'routes[0].rewrite.strip_prefix: warning: no path that this route matches begins with "/wss"'
        " (a prefix of what `match` has)",
        'routes[3].rewrite.strip_prefix: warning: no path that this route matches begins with "/d/e"'
        " (a prefix of what `match` has)",
    ]


def test_an_expression_that_may_take_long_is_warned_of(tmp_path):
    (warning,) = warnings(tmp_path, {"match": {"path_regex": "^/(a+)+$"}}, {"match": {"path_regex": "^/a+$"}})
    assert warning.startswith(
        "routes[0].match.path_regex: warning: the regular expression may take exponential time on some paths ("
    )


HOSTS = st.sampled_from(["a.example", "b.a.example", "*.example", "*.a.example", "example", "other"])
PATHS = st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab", "/a%2Fb", "/b"])
OPTIONAL = {
    "hosts": st.lists(HOSTS, min_size=1, max_size=2).map(tuple),
    "subprotocols": st.lists(st.sampled_from("pq"), min_size=1, max_size=2).map(tuple),
    "headers": st.dictionaries(st.sampled_from(["X", "x", "Y"]), st.sampled_from("12"), min_size=1, max_size=1),
    "query": st.dictionaries(st.sampled_from("vw"), st.sampled_from("12"), min_size=1, max_size=2),
    "methods": st.lists(st.sampled_from(["GET", "POST"]), min_size=1, max_size=2).map(tuple),
}
PATH_CONDITIONS = st.one_of(
    st.just({}),
    PATHS.map(lambda path: {"path": path}),
    PATHS.map(lambda path: {"path_exact": path}),
    st.sampled_from(["^/a", "b$", "^/a/b$"]).map(lambda regex: {"path_regex": regex}),
)
MATCHES = st.builds(
    lambda path, rest: Match(**path, **rest), PATH_CONDITIONS, st.fixed_dictionaries({}, optional=OPTIONAL)
)


@given(
    MATCHES,
    MATCHES,
    st.sampled_from(["a.example", "b.a.example", "c.b.a.example", "example", "other", ".example"]),
    st.sampled_from(["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/%61", "/a%2fb", "/b"]),
    st.sampled_from(["", "?v=1", "?v=1&w=2", "?v=1&v=2", "?w=%31"]),
    st.lists(st.sampled_from(["X: 1", "x: 2", "Y: 1", "Sec-WebSocket-Protocol: p", "Sec-WebSocket-Protocol: q, r"])),
    st.sampled_from(["GET", "POST"]),
)
@settings(max_examples=examples(300))
def test_it_is_never_claimed_of_a_route_that_is_reached(one, other, host, path, query, fields, method):
    for match in (one, other):
        for given_path in (match.path, match.path_exact):
            assert given_path is None or check_path(given_path)
    if not takes_all_of(one, other):
        return
    matches = [Conditions.of(one), Conditions.of(other)]
    looks = Looks.of(matches)
    lines = (f"{method} {path}{query} HTTP/1.1", f"Host: {host}", *fields)
    head = request_head(*(line.encode() for line in lines))
    subject = Subject.of(Asked.by(head, looks))
    takes = [condition is None or condition(subject) for condition in (condition_of(match, looks) for match in matches)]
    assert takes[0] or not takes[1]
