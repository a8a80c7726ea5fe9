"""What a request must look like for a route to take it, and all that routes may look at."""

import inspect

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config.settings import Match
from gateway.protocol.heads import BadHead
from gateway.protocol.target import normal_path
from gateway.routing.matching import Asked, Subject

from ..protocol.backends import SERVERS, merge_slashes
from ..protocol.heads import request_head
from .tables import found, routes_of


def matches(match, path="/", host="chat.example.com", subprotocols=()):
    return found(routes_of({"match": match}), path, host, subprotocols) is not None


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
        ("/wsx", False),
        ("/ws%2Fx", False),
        ("/w", False),
        ("/", False),
        ("/x/ws", False),
        ("/WS", False),
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


# --- what is looked at ------------------------------------------------------------------------------------------------


def asked(target, *fields, start=b"GET %b HTTP/1.1"):
    return Asked.by(request_head(start % target, *fields))


def seen(*arguments, **how):
    return Subject.of(asked(*arguments, **how))


def test_whatever_matching_looks_at_is_part_of_the_key():
    """Each condition of the configuration has its part of what is asked; a further one needs one, too."""
    conditions = {
        "hosts": "host",
        "path": "path",
        "path_exact": "path",
        "path_regex": "path",
        "subprotocols": "subprotocols",
        "headers": "further",
        "query": "further",
        "methods": "further",
    }
    assert set(Match._fields) == set(conditions)
    assert set(Asked._fields) == set(Subject._fields) == set(conditions.values())
    assert list(inspect.signature(Subject.of).parameters) == ["asked"]


def test_what_is_asked_is_what_was_sent():
    fields = (b"Host: A:80", b"Sec-WebSocket-Protocol: b, c", b"sec-websocket-protocol: d")
    assert asked(b"/%61/../b?c=d", *fields) == Asked(b"A:80", b"/%61/../b", (b"b, c", b"d"))
    assert seen(b"/%61/../b?c=d", *fields) == Subject("a", "/b", ("b", "c", "d"))
    assert Asked(b"A:80", b"/%61/../b", (b"b, c", b"d")).size() == 4 + 9 + 4 + 1


@pytest.mark.parametrize(
    ("target", "host", "subject"),
    [
        (b"/", b"Chat.Example.COM:8080", "chat.example.com"),
        (b"/", b"chat.example.com.", "chat.example.com"),
        (b"/", b"chat.example.com.:80", "chat.example.com"),
        (b"/", b"[2001:DB8::1]:80", "[2001:db8::1]"),
        (b"/", b"", ""),
        (b"http://chat.example.com:80/x", b"Chat.example.com:80", "chat.example.com"),
        (b"http://chat.example.com:80/x", b"chat.example.com", "chat.example.com"),
        (b"http://chat.example.com/x", b"chat.example.com:80", "chat.example.com"),
        (b"https://chat.example.com/x", b"chat.example.com.:443", "chat.example.com"),
    ],
)
def test_the_host(target, host, subject):
    assert seen(target, b"Host: " + host).host == subject


def test_the_host_of_http10():
    start = b"GET %b HTTP/1.0"
    assert seen(b"/", start=start).host == ""
    assert seen(b"http://Chat.example.com:8080/x", start=start).host == "chat.example.com"


@pytest.mark.parametrize("host", [b"chat.example.com", b"other.example.com:8080", b"other.example.com:443", b""])
def test_a_target_and_a_host_that_name_different_hosts(host):
    # RFC 9112 section 3.2.2: a server that looks at Host would serve another site than one that looks at the target.
    with pytest.raises(BadHead, match="different hosts") as caught:
        asked(b"http://other.example.com/x", b"Host: " + host)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/ws//x", "/ws/x"),
        (b"//ws", "/ws"),
        (b"http://x.test?/admin/users", "/"),
        (b"http://x.test//admin", "/admin"),
        (b"/x?/../admin", "/x"),
    ],
)
def test_the_path(target, path):
    assert seen(target, b"Host: x.test").path == path


@pytest.mark.parametrize("target", [b"*", b"http://x.test"])
def test_the_path_of_options_for_the_whole_server(target):
    assert seen(target, b"Host: x.test", start=b"OPTIONS %b HTTP/1.1").path == "*"


# --- a rule on a path -------------------------------------------------------------------------------------------------

GUARDED = routes_of({"name": "guarded", "match": {"path": "/admin"}, "http": "reject"}, {"name": "rest"})
PARTS = [
    *(b"/", b"/", b"//", b"/.", b"/./", b"/..", b"/../", b"/x", b"/x/..", b"/x/../", b"/;x", b"/..;/", b"\\", b"%5c"),
    *(b"/admin", b"/%61dmin", b"/adm%69n/", b"/%41dmin", b"/admin/..", b"/admin/../", b"/%2e%2e/", b"/%2e/", b"%2e"),
    *(b"%2f", b"%2F", b"..", b"%2f..%2f", b"users", b"%00", b"%20"),
]


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=8).map(b"".join))
@example(b"/x/..//admin/users")
@example(b"/x%2f../admin/users")
@example(b"/./admin")
def test_no_spelling_of_a_path_escapes_a_rule_on_it(path):
    """A backend never serves /admin or what is below it for a request that the catch-all route took.

    That holds for backends that take ``%2F`` and ``;`` in a name for what they are (RFC 3986 section 2.2); the others
    are never led by dot segments to another path than the one that was matched.
    """
    try:
        found = GUARDED.find(request_head(b"GET http://x.test/%b HTTP/1.1" % path.lstrip(b"/"), b"Host: x.test"))
    except BadHead:
        return
    path = b"/" + path.lstrip(b"/")
    matched = normal_path(path).encode("latin-1")
    for server in SERVERS:
        served = server.resolves(path)
        if server.read and served == merge_slashes(server.reads(matched)):
            continue
        is_guarded = served == b"/admin" or served.startswith(b"/admin/")
        assert found.route.name == ("guarded" if is_guarded else "rest")
