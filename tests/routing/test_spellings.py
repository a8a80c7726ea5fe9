"""No spelling of a path gets a request past the rules of its route."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.protocol.heads import BadHead
from tests.protocol.backends import SERVERS
from tests.protocol.heads import request_head

from .tables import routes_of

RULE = {"allow": ["10.0.0.0/8"]}
GUARDED = routes_of({"name": "guarded", "match": {"path": "/admin"}, **RULE}, {"name": "rest"})


def route_of(routes, target, host=b"x.test"):
    """Its name; None if the target is refused."""
    try:
        return routes.find(request_head(b"GET %b HTTP/1.1" % target, b"Host: " + host)).route.name
    except BadHead as error:
        assert error.status == 400  # noqa: PT017 - either outcome will do, but not another error
        return None


@pytest.mark.parametrize(
    "target",
    [
        *(b"/Admin", b"/ADMIN/x", b"/adm%49n", b"/admin;x", b"/admin;x/y", b"/admin%3bx=y/z", b"/admin%2Fx"),
        *(b"/admin%5cx", b"/admin\\x", b"/%2fadmin", b"/;/admin", b"/;a/ADMIN", b"/admin%2f;x", b"/\\admin"),
        *(b"/admin%00", b"/Admin%00/x", b"/admin%00.png", b"/admin;%00", b"/x/../admin%00"),
        *(b"/x%2f../admin%2Fy", b"http://x.test/Admin;a?b", b"//Admin", b"/x/../aDmin"),
    ],
)
def test_spellings_that_are_refused(target):
    assert route_of(GUARDED, target) is None


@pytest.mark.parametrize(
    "target", [b"/admin", b"/admin/", b"//admin//x;y", b"/%61dmin/a%2fb", b"/admin/X", b"/x/../admin"]
)
def test_spellings_of_the_route_itself(target):
    assert route_of(GUARDED, target) == "guarded"


@pytest.mark.parametrize(
    "target",
    [b"/", b"/x;y", b"/a%2fb", b"/Administrator", b"/x/admin", b"/x%2Fadmin", b"/x;/admin", b"/%00/admin", b"/x%00"],
)
def test_other_paths(target):
    assert route_of(GUARDED, target) == "rest"


def test_routes_without_rules_are_told_apart_as_ever():
    routes = routes_of({"name": "a", "match": {"path": "/a"}}, {"name": "rest"})
    assert [route_of(routes, target) for target in (b"/a", b"/A", b"/a%2fb", b"/a;x")] == ["a", "rest", "rest", "rest"]


def test_routes_with_the_same_rules():
    routes = routes_of({"name": "a", "match": {"path": "/a"}, **RULE}, {"name": "rest", **RULE})
    assert [route_of(routes, target) for target in (b"/a", b"/A", b"/a;x")] == ["a", "rest", "rest"]


def test_a_catch_all_with_rules_behind_a_route_without():
    routes = routes_of({"name": "Public", "match": {"path": "/Public"}}, {"name": "rest", **RULE})
    assert [route_of(routes, target) for target in (b"/Public/x", b"/public", b"/Public;x")] == [
        "Public",
        "rest",
        "rest",
    ]
    assert route_of(routes, b"/Public/a%2Fb") == "Public"


def test_other_conditions():
    routes = routes_of(
        {"name": "exact", "match": {"path_exact": "/Login"}, **RULE},
        {"name": "regex", "match": {"path_regex": r"\.PHP$"}, **RULE},
        {"name": "flags", "match": {"path_regex": r"(?x) \A/f $"}, **RULE},
        {"name": "escape", "match": {"path": "/X%2Fy"}, **RULE},
        {"name": "host", "match": {"hosts": ["y.test"], "path": "/y"}, **RULE},
        {"name": "rest"},
    )
    assert [route_of(routes, target) for target in (b"/Login", b"/login", b"/login/")] == ["exact", None, "rest"]
    assert [route_of(routes, target) for target in (b"/x.PHP", b"/x.php", b"/x.php;y")] == ["regex", None, None]
    assert [route_of(routes, target) for target in (b"/f", b"/F")] == ["flags", None]
    assert [route_of(routes, target) for target in (b"/X%2fy", b"/x%2FY", b"/X/y")] == ["escape", None, "rest"]
    assert [route_of(routes, b"/Y", host) for host in (b"x.test", b"Y.test")] == ["rest", None]


PARTS = [
    *(b"/", b"/", b"//", b"/.", b"/./", b"/..", b"/../", b"/x", b"/x/..", b"/x/../", b"/;x", b"..;/", b"\\", b"%5c"),
    *(b"/admin", b"/%61dmin", b"/Adm%69n/", b"/%41dmin", b"/admin/..", b"/admin/../", b"/%2e%2e/", b"/%2e/", b"%2e"),
    *(b"%2f", b"%2F", b"..", b"%2f..%2f", b"users", b"%00", b"%20", b";", b"%3b", b"/ADMIN"),
]


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=8).map(b"".join), st.sampled_from([b"", b"http://x.test"]))
@example(b"/x/..//admin/users", b"")
@example(b"/admin%2fusers", b"")
@example(b"/;x/aDMIN", b"")
@example(b"/Admin//..//users", b"")
def test_no_server_serves_it_without_the_rule(path, authority):
    """Whichever way a server reads paths, and whether or not it tells case apart."""
    path = b"/" + path.lstrip(b"/")
    if route_of(GUARDED, authority + path) == "rest":
        for server in SERVERS:
            served = server.resolves(path).lower()
            assert served != b"/admin"
            assert not served.startswith(b"/admin/")
