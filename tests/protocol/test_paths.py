"""The one spelling of a path: what routes match is what a backend resolves."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.protocol.heads import BadHead
from gateway.protocol.target import normal_path, other_paths

from .backends import SERVERS, decode_unreserved, merge_slashes, remove_dot_segments

pytestmark = pytest.mark.either_build


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", "/"),
        (b"/ws", "/ws"),
        (b"/ws/", "/ws/"),
        (b"//", "/"),
        (b"///a", "/a"),
        (b"/a//b", "/a/b"),
        (b"/a///b//", "/a/b/"),
        (b"/a/./b", "/a/b"),
        (b"/a/.//b", "/a/b"),
        (b"/a/../b", "/b"),
        (b"/a//b/../c", "/a/c"),
        (b"/a/b/..", "/a/"),
        (b"/a/b/.", "/a/b/"),
        (b"/..", "/"),
        (b"/../../a", "/a"),
        (b"/a/b/../../../../c", "/c"),
        (b"/.hidden/..x/...", "/.hidden/..x/..."),
        (b"/.hidden;a/x", "/.hidden;a/x"),
        (b"/%77%73", "/ws"),
        (b"/%7euser/%2D%5F", "/~user/-_"),
        (b"/a/%2e%2E/b", "/b"),
        (b"/a/%2E/b", "/a/b"),
        (b"/a%2fb", "/a%2Fb"),
        (b"/a.b%2fc.d", "/a.b%2Fc.d"),
        (b"/a%2f%2fb", "/a%2F%2Fb"),
        (b"/a%5cb\\c", "/a%5Cb\\c"),
        (b"/a;b=c/d", "/a;b=c/d"),
        (b"/a;x/../b;y", "/b;y"),
        (b"/a%2fb/./c", "/a%2Fb/c"),
        (b"/caf%c3%a9", "/caf%C3%A9"),
        (b"/%2577%73", "/%2577s"),
        (b"/%252e%252e/a", "/%252e%252e/a"),
        (b"/%00%0a", "/%00%0A"),
        (b"/a+b%20c", "/a+b%20c"),
        (b"*", "*"),
    ],
)
def test_normal_path(path, normal):
    assert normal_path(path) == normal


@pytest.mark.parametrize(
    "path",
    [
        # Decoding %2F or %5C, or reading a backslash as a slash, would make a dot segment.
        *(b"/a/..%2fb", b"/a/..%2Fb", b"/a%2f..%2fb", b"/a%2F../b", b"/a/%2e%2e%2fb"),
        *(b"/a%2f.%2fb", b"/.%2fa", b"/a%2f.", b"/a/%2f../../b"),
        *(b"/a/..%5cb", b"/a%5c..", b"/a/..\\b", b"/a\\..\\b", b"/a\\..", b"/\\../a", b"/a%2f%2e%2E"),
        # Servlet containers take parameters off a segment before they resolve it.
        *(b"/a/..;/b", b"/a/..;x=y/b", b"/a/.;/b", b"/..;", b"/a/..%3bx/b", b"/a/%2e.;/b"),
    ],
)
def test_what_is_a_dot_segment_to_some_servers_only(path):
    with pytest.raises(BadHead, match="not every server resolves") as caught:
        normal_path(path)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("path", "normal", "others"),
    [
        # What .. takes away depends on whether this is one segment, two, or none.
        (b"/admin%2fx/../y", "/y", {"/admin/y"}),
        (b"/a%5Cb/../c", "/c", {"/a/c"}),
        (b"/a\\b/../c", "/c", {"/a/c"}),
        (b"/a//../b", "/b", {"/a/b"}),
        (b"/a/b//..", "/a/", {"/a/b/"}),
        (b"/a/;x/../b", "/a/b", {"/b"}),
        (b"/a/%2f/../b", "/a/b", {"/b"}),
        (b"/a/./b", "/a/b", set()),
        (b"/a%2fb/./c;d", "/a%2Fb/c;d", set()),
        (b"/a//b/../c", "/a/c", set()),
        (b"/a%2fb", "/a%2Fb", set()),
        (b"/a//b;c", "/a/b;c", set()),
    ],
)
def test_what_servers_resolve_differently(path, normal, others):
    assert normal_path(path) == normal
    assert other_paths(path) == others


@pytest.mark.parametrize("path", [b"/%zz", b"/%", b"/a%", b"/%4", b"/%4/x", b"/%%34%31", b"/%u0041", b"/% 41", b"/%-1"])
def test_malformed_escapes(path):
    with pytest.raises(BadHead, match="percent-encoding") as caught:
        normal_path(path)
    assert caught.value.status == 400


PLAIN = st.lists(st.sampled_from(["/a", "/b", "/", "/.", "/..", "/~", "/...", "/;"]), min_size=1).map("".join)
HOSTILE_PARTS = [
    *(b"/", b"/", b"/", b".", b".", b"%2e", b"%2E", b"%2F", b"%2f", b"%5C", b"\\", b";", b"%3b"),
    *(b"a", b"admin", b"%61dmin", b"%25", b"\xe9", b"..", b"/../", b"/./", b"//"),
]
HOSTILE = st.lists(st.sampled_from(HOSTILE_PARTS), max_size=14).map(lambda parts: b"/" + b"".join(parts))


def normal_or_refused(path):
    try:
        return normal_path(path).encode("latin-1")
    except BadHead as error:
        assert error.status == 400  # noqa: PT017 - either outcome will do, but not another error
        return None


@given(PLAIN.filter(lambda path: "//" not in path and ";" not in path))
def test_dot_segments_as_the_rfc_removes_them(path):
    assert normal_path(path.encode()).encode() == remove_dot_segments(path.encode())


@given(PLAIN, st.data())
def test_every_spelling_is_the_same_path(path, data):
    spelled = b""
    for character in path:
        if character in "/;" or data.draw(st.booleans()):
            spelled += character.encode()
        else:
            escape = f"{ord(character):02x}"
            spelled += b"%" + data.draw(st.sampled_from([escape, escape.upper()])).encode()
    assert normal_or_refused(spelled) == normal_or_refused(path.encode())


@given(HOSTILE)
def test_a_normal_path_is_its_own(path):
    normal = normal_or_refused(path)
    assume(normal is not None)
    assert normal.startswith(b"/")
    assert normal_path(normal).encode("latin-1") == normal
    assert not {b".", b".."} & set(normal.split(b"/"))
    assert b"//" not in normal


def dot_segments(path):
    return sum(segment in (b".", b"..") for segment in path.split(b"/"))


@given(HOSTILE)
def test_what_is_a_dot_segment_to_some_servers_only_is_refused_and_nothing_else(path):
    plain = decode_unreserved(path)
    to_some = any(dot_segments(server.reads(plain)) > dot_segments(plain) for server in SERVERS)
    assert (normal_or_refused(path) is None) == to_some


@given(HOSTILE)
@example(b"/a%2fb/../c")
@example(b"/a/;x/../b")
@example(b"/;%2F/../")
@example(b"/%2F//../")
def test_what_is_matched_is_what_a_backend_resolves_or_is_among_the_others(path):
    normal = normal_or_refused(path)
    if normal is not None:
        assert normal == SERVERS[0].resolves(path)
        served = [(server.resolves(path), merge_slashes(server.reads(normal))) for server in SERVERS]
        others = {found for found, same in served if found != same}
        assert other_paths(path) == {other.decode("latin-1") for other in others}
