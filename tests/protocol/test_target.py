"""Request targets: their forms, what a backend is sent, and which authorities are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.heads import BadHead
from gateway.protocol.target import origin_form, same_authority, split_target

pytestmark = pytest.mark.either_build


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/", (b"", None, b"/", b"")),
        (b"/ws", (b"", None, b"/ws", b"")),
        (b"/ws?", (b"", None, b"/ws", b"?")),
        (b"/ws?a=/../b?c", (b"", None, b"/ws", b"?a=/../b?c")),
        (b"//other/ws", (b"", None, b"//other/ws", b"")),
        (b"http://a", (b"http", b"a", b"/", b"")),
        (b"http://a/", (b"http", b"a", b"/", b"")),
        (b"HTTPS://A:443/ws?x", (b"https", b"A:443", b"/ws", b"?x")),
        (b"http://a?x", (b"http", b"a", b"/", b"?x")),
        (b"http://a?/admin", (b"http", b"a", b"/", b"?/admin")),
        (b"http://[::1]:80/ws", (b"http", b"[::1]:80", b"/ws", b"")),
        (b"http://a//b", (b"http", b"a", b"//b", b"")),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"FROBNICATE"])
def test_forms(target, method, parts):
    assert split_target(target, method) == parts


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"*", (b"", None, b"*", b"")),
        (b"http://a", (b"http", b"a", b"*", b"")),  # RFC 9112 section 3.2.4
        (b"http://a/", (b"http", b"a", b"/", b"")),
        (b"http://a?x", (b"http", b"a", b"/", b"?x")),
        (b"/x", (b"", None, b"/x", b"")),
    ],
)
def test_forms_of_options(target, parts):
    assert split_target(target, b"OPTIONS") == parts


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"/", b"/"),
        (b"/x?", b"/x?"),
        (b"/a/../b//c?d=%41", b"/a/../b//c?d=%41"),
        (b"http://x.test?/admin/users", b"/?/admin/users"),
        (b"http://x.test:80/p", b"/p"),
        (b"HTTP://x.test/p?", b"/p?"),
        (b"https://x.test", b"/"),
        (b"http://x.test?", b"/?"),
        (b"http://x.test//p", b"//p"),
        (b"http://x.test/http://y/", b"/http://y/"),
    ],
)
def test_the_form_that_a_backend_is_sent(target, sent):
    assert origin_form(target, b"GET") == sent


def test_the_form_of_options_that_a_backend_is_sent():
    assert origin_form(b"*", b"OPTIONS") == b"*"
    assert origin_form(b"http://x.test", b"OPTIONS") == b"*"
    assert origin_form(b"http://x.test:80", b"OPTIONS") == b"*"
    assert origin_form(b"http://x.test/", b"OPTIONS") == b"/"
    assert origin_form(b"http://x.test?a", b"OPTIONS") == b"/?a"


@pytest.mark.parametrize(
    ("target", "method", "reason"),
    [
        *(
            (target, b"GET", "neither a path nor an http URL")
            for target in (b"", b"ws", b"a:443", b"?x", b"**", b"*/a")
        ),
        *((target, b"GET", "neither a path nor") for target in (b"ws://a/b", b"ftp://a/b", b"file:///a", b"http:/a")),
        (b"*", b"GET", "OPTIONS only"),
        (b"**", b"OPTIONS", "neither a path nor"),
        # A backend that cuts the fragment off would see another path than the routes.
        *((target, b"GET", "fragment") for target in (b"/ws#/../admin", b"/ws?a#b", b"http://a#b", b"#")),
        *((target, b"GET", "user information") for target in (b"http://u@a/", b"http://u:p@a:80", b"http://a@b@c/")),
        *(
            (target, b"GET", "malformed host")
            for target in (b"http:///x", b"http://:80/", b"http://a:b/", b"http://a b/")
        ),
        (b"http://a\\b/", b"GET", "malformed host"),
        *((target, b"CONNECT", "reverse proxy") for target in (b"a:443", b"/", b"http://a/", b"*")),
    ],
)
def test_what_is_refused(target, method, reason):
    for function in split_target, origin_form:
        with pytest.raises(BadHead, match=reason) as caught:
            function(target, method)
        assert caught.value.status == 400


@given(
    st.sampled_from([b"", b"http://a", b"https://[::1]:8", b"HTTP://a."]),
    st.sampled_from([b"", b"/", b"//", b"/a/../b", b"/%zz"]),
    st.sampled_from([b"", b"?", b"?/x", b"?a?b"]),
    st.sampled_from([b"GET", b"OPTIONS"]),
)
def test_both_see_one_target(start, path, query, method):
    target = start + path + query
    if not start and not path:
        return
    parts = split_target(target, method)
    assert origin_form(target, method) == parts.path + parts.query
    if path:
        assert origin_form(target, method) == path + query


@pytest.mark.parametrize(
    ("scheme", "one", "other"),
    [
        (b"http", b"x.test", b"x.test"),
        (b"http", b"x.test", b"X.Test"),
        (b"http", b"x.test:80", b"x.test"),
        (b"http", b"x.test", b"x.test:80"),
        (b"http", b"x.test:", b"x.test"),
        (b"http", b"x.test:080", b"x.test:80"),
        (b"http", b"x.test.", b"x.test"),
        (b"http", b"x.test.:80", b"x.test"),
        (b"https", b"x.test:443", b"x.test"),
        (b"http", b"[::1]:80", b"[::1]"),
        (b"http", b"[2001:DB8::1]", b"[2001:db8::1]"),
    ],
)
def test_one_authority(scheme, one, other):
    assert same_authority(scheme, one, other)
    assert same_authority(scheme, other, one)


@pytest.mark.parametrize(
    ("scheme", "one", "other"),
    [
        (b"http", b"x.test", b"y.test"),
        (b"http", b"x.test:443", b"x.test"),
        (b"https", b"x.test:80", b"x.test"),
        (b"http", b"x.test:8080", b"x.test:80"),
        (b"http", b"x.test:8080", b"x.test:0808"),
        (b"http", b"x.test..", b"x.test"),
        (b"http", b"x.test", b""),
        (b"http", b"x.test", b"x.test@y"),
        (b"http", b"[::1]", b"[::2]"),
        (b"http", b"%78.test", b"x.test"),
    ],
)
def test_two_authorities(scheme, one, other):
    assert not same_authority(scheme, one, other)
    assert not same_authority(scheme, other, one)
