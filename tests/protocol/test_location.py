"""Where requests are redirected to: where the configuration says, whatever a client sends."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.location import Location, MalformedLocation, NoHost


@pytest.mark.parametrize(
    ("to", "target", "expected"),
    [
        ("https://{host}{uri}", b"/a/b?c=d", b"https://chat.example/a/b?c=d"),
        ("https://{host}:8443{path}", b"/a?c", b"https://chat.example:8443/a"),
        ("https://www.{host}/new{path}?from=old", b"/a?c", b"https://www.chat.example/new/a?from=old"),
        ("https://other.example/", b"/a", b"https://other.example/"),
        ("https://other.example", b"/a", b"https://other.example"),
        ("https://[::1]:80/x", b"/a", b"https://[::1]:80/x"),
        ("/new{uri}", b"/a?b", b"/new/a?b"),
        ("{uri}", b"/a", b"/a"),
        ("{uri}", b"//evil.example/x", b"/evil.example/x"),
        ("{uri}", b"/\\evil.example", b"/evil.example"),
        ("{uri}", b"/\\/\\//evil.example//y", b"/evil.example//y"),
        ("https://{host}{uri}", b"*", b"https://chat.example/"),
        ("{uri}", b'/a\\b"<>\xe9\x01 ', b"/a%5Cb%22%3C%3E%E9%01%20"),
        ("{uri}", b"/%0d%0aSet-Cookie:x", b"/%0d%0aSet-Cookie:x"),
    ],
)
def test_where_to(to, target, expected):
    assert Location(to).of("chat.example", target) == expected


@pytest.mark.parametrize(
    "to",
    [
        "",
        "x",
        "//evil.example",
        "https://",
        "https://{uri}",
        "https://{path}/x",
        "https:{uri}",
        "https:///x",
        "ftp://a/x",
        "javascript:alert(1)",
        "https://a.example@evil.example/",
        "https://{host}@evil.example/",
        "https://{host}.evil.example/",
        "https://a.example:{uri}",
        "/{uri}",
        "/x/{path}",
        "/x{host}",
        "https://a/?{host}",
        "https://a/{query}",
        "https://a/{",
        "https://a/}",
        "https://a/ b",
        "https://a/\n",
        "https://a/é",
        "https://a/%zz",
        "\\evil",
        "{host}/x",
    ],
)
def test_what_is_nowhere(to):
    with pytest.raises(MalformedLocation):
        Location(to)


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "é", "a\r\nx", "[::1", "a?b", "a#b", "a\\b"])
def test_a_host_that_is_none(host):
    with pytest.raises(NoHost):
        Location("https://{host}{uri}").of(host, b"/")
    assert Location("https://a{uri}").of(host, b"/x") == b"https://a/x"


HOSTILE = st.lists(
    st.sampled_from([*"/\\@:?#%.;\t\r\n \x00", "//", "evil.example", "http:", "%2f", "%5c", "\xff"]), max_size=8
)


@given(
    HOSTILE.map("".join),
    st.sampled_from(["https://{host}{uri}", "{uri}", "/x{path}", "https://a.example{path}", "{path}"]),
)
def test_no_client_bends_it_to_another_host(rest, to):
    location = Location(to).of("a.example", b"/" + rest.encode("latin-1")).decode("ascii")
    assert location.isprintable()
    assert " " not in location
    # As browsers read it: backslashes are slashes (https://url.spec.whatwg.org/#special-scheme).
    is_path = location.startswith("/") and not location.startswith(("//", "/\\"))
    parts = urlsplit("https://a.example" + location if is_path else location)
    assert parts.hostname == "a.example"
    assert parts.port is None
