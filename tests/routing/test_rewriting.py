"""What paths become for backends: always one path, under the prefix that is added."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.heads import BadHead
from gateway.protocol.target import normal_path, other_paths
from tests.support.examples import examples

from ..protocol.heads import request_head
from .tables import routes_of


def rewritten(rewrite, target, match=None):
    """What a backend is sent. :raises BadHead: the request is refused"""
    target = target.encode("latin-1") if isinstance(target, str) else target
    routes = routes_of({"match": match or {}, "rewrite": rewrite})
    found = routes.find(request_head(b"GET %b HTTP/1.1" % target, b"Host: a"))
    return (target if found.rewritten is None else found.rewritten.of(target)).decode("latin-1")


@pytest.mark.parametrize(
    ("strip", "add", "target", "expected"),
    [
        ("/ws", None, "/ws/x?a=b", "/x?a=b"),
        ("/ws/", None, "/ws/x", "/x"),
        ("/ws", None, "/ws", "/"),
        ("/ws", None, "/ws/", "/"),
        ("/ws", None, "/ws?a", "/?a"),
        ("/ws", None, "/wsx", "/wsx"),
        ("/ws", None, "/ws%2Fx", "/ws%2Fx"),
        ("/ws", None, "/%77s/x", "/x"),
        ("/ws", None, "//ws//x", "/x"),
        ("/ws", None, "/ws//evil.example", "/evil.example"),
        ("/ws", None, "/ws/%2Fevil.example", "/%2Fevil.example"),
        ("/ws", None, "/a/../ws/./x", "/x"),
        ("/ws", None, "/ws/a%2fb", "/a%2Fb"),
        ("/ws", None, "/ws/caf%c3%a9?%61", "/caf%C3%A9?%61"),
        ("/ws", "/app", "/ws/x", "/app/x"),
        ("/ws", "/app/", "/ws/x", "/app/x"),
        ("/ws", "/app", "/ws", "/app"),
        ("/ws", "/app/", "/ws", "/app/"),
        ("/ws", "/app", "/ws/", "/app/"),
        ("/ws", "/app", "/other", "/app/other"),
        (None, "/app", "/x?a=b?c", "/app/x?a=b?c"),
        (None, "/app", "/", "/app/"),
        ("/w%C3%A9", "/app", "/w%c3%a9/x", "/app/x"),
    ],
)
def test_prefixes(strip, add, target, expected):
    rewrite = {key: value for key, value in (("strip_prefix", strip), ("add_prefix", add)) if value}
    assert rewritten(rewrite, target) == expected


@pytest.mark.parametrize(
    ("match", "to", "target", "expected"),
    [
        ("^/old/(.*)$", "/new/\\1", "/old/x/y?a=b", "/new/x/y?a=b"),
        ("^/old/(.*)$", "/new/\\1", "/older/x", "/older/x"),
        ("^/old/(.*)$", "/new/\\1", "/%6fld/x%2fy", "/new/x%2Fy"),
        ("^/(.*)$", "/\\1", "/x", "/x"),
        ("^/a(.*)$", "/\\1", "/a/evil.example/", "/evil.example/"),
        ("/(?P<room>[0-9]+)$", "/room?id=\\g<room>", "/x/42", "/room?id=42"),
        ("/(?P<room>[0-9]+)$", "/room?id=\\g<room>", "/x/42?a=b", "/room?id=42&a=b"),
        ("^/r/(.*)$", "/room?id=\\1&k=\\1", "/r/x&admin=1;y", "/room?id=x%26admin%3D1%3By&k=x%26admin%3D1%3By"),
        ("^/(a)?b$", "/x\\1", "/b", "/x"),
        ("^/x$", "/fixed", "/x?q", "/fixed?q"),
    ],
)
def test_expressions(match, to, target, expected):
    assert rewritten({"regex": {"match": match, "to": to}}, target) == expected


@pytest.mark.parametrize(
    ("match", "to", "target", "status"),
    [
        ("^/old(.*)$", "/new/\\1", "/old../x", 400),
        ("^/old(.*)$", "/new/\\1", "/old.", 400),
        ("^/old/(.*)$", "/new/.\\1", "/old/./x", 200),
        ("^/old/(.*)$", "/new/.\\1", "/old/.;x", 400),
        ("^/(.)(.*)$", "/\\2/\\1", "/%2Fa", 400),
        ("^/(.*)$", "/\\1", "/" + "a" * 1024, 414),
        ("^/(.*)$", "/\\1", "/" + "a" * 1023, 200),
    ],
)
def test_a_path_that_cannot_be_rewritten_is_refused(match, to, target, status):
    try:
        rewritten({"regex": {"match": match, "to": to}}, target)
        found = 200
    except BadHead as error:
        found = error.status
    assert found == status


def test_a_request_for_the_server_as_a_whole_has_no_path():
    routes = routes_of({"rewrite": {"add_prefix": "/app"}})
    assert routes.find(request_head(b"OPTIONS * HTTP/1.1", b"Host: a")).rewritten is None


PIECES = [
    "/",
    "//",
    "a",
    "ws",
    "%77s",
    "..",
    ".",
    "%2e",
    "%2F",
    "%2f",
    "%5C",
    "\\",
    ";",
    ";x",
    "%00",
    "%25",
    "~",
    "evil.example",
]
TARGETS = st.lists(st.sampled_from(PIECES), max_size=8).map(lambda parts: "/" + "".join(parts))
PREFIXES = st.sampled_from([None, "/ws", "/ws/", "/ws/a", "/a"])
DOTS = re.compile(r"(?:/|\\|%2F|%5C)\.{1,2}(?:/|\\|%2F|%5C|;|$)", re.IGNORECASE)


@given(TARGETS, PREFIXES, st.sampled_from([None, "/app", "/app/", "/a/b"]), st.sampled_from(["", "?", "?a=/../b"]))
@settings(max_examples=examples(300))
def test_no_path_leaves_the_prefix(path, strip, add, query):
    rewrite = {key: value for key, value in (("strip_prefix", strip), ("add_prefix", add)) if value}
    if not rewrite:
        return
    try:
        sent = rewritten(rewrite, path + query)
    except BadHead:
        return
    result, _, rest = sent.partition("?")
    assert sent[len(result) :] == query
    assert rest == query[1:]
    assert result.startswith(add or "/")
    assert "//" not in result
    assert not DOTS.search(result)
    # What the backend resolves is what was sent, and nothing else to any server.
    assert normal_path(result.encode("latin-1")) == result
    assert other_paths(result.encode("latin-1")) == set()
    # It corresponds to what was matched.
    whole = normal_path(path.encode("latin-1"))
    stripped = (strip or "").rstrip("/")
    taken = whole == stripped or whole.startswith(stripped + "/")
    rest_of_path = whole[len(stripped) :] if taken else whole
    assert result == ((add or "").rstrip("/") + rest_of_path if rest_of_path else add or "/")


@given(TARGETS, st.sampled_from([("^/ws(.*)$", "/app/\\1"), ("^(.*)a(.*)", "/app\\2/\\1"), ("^/(.*)$", "/\\1\\1")]))
@settings(max_examples=examples(200))
def test_no_path_leaves_what_an_expression_makes_of_it(path, regex):
    match, to = regex
    try:
        sent = rewritten({"regex": {"match": match, "to": to}}, path)
    except BadHead:
        return
    if sent != path:
        assert sent.startswith(to.partition("\\")[0].rstrip("/") or "/")
        assert "//" not in sent
        assert not DOTS.search(sent)
        assert normal_path(sent.encode("latin-1")) == sent
