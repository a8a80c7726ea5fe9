"""Request targets, and the one spelling of a path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.http import BadHead
from gateway.protocol.target import normal_path, split_target

pytestmark = pytest.mark.either_build


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/", (None, b"/", b"")),
        (b"/ws", (None, b"/ws", b"")),
        (b"/ws?", (None, b"/ws", b"?")),
        (b"/ws?a=/../b?c", (None, b"/ws", b"?a=/../b?c")),
        (b"//other/ws", (None, b"//other/ws", b"")),
        (b"*", (None, b"*", b"")),
        (b"http://a", (b"a", b"/", b"")),
        (b"http://a/", (b"a", b"/", b"")),
        (b"HTTPS://A:443/ws?x", (b"A:443", b"/ws", b"?x")),
        (b"http://a?x", (b"a", b"/", b"?x")),
        (b"http://[::1]:80/ws", (b"[::1]:80", b"/ws", b"")),
    ],
)
def test_forms(target, parts):
    assert split_target(target) == parts


@pytest.mark.parametrize(
    "target",
    [
        *(
            b"",
            b"ws",
            b"a:443",
            b"ws://a/b",
            b"wss://a/b",
            b"ftp://a/b",
            b"file:///a",
            b"http:/a",
            b"?x",
            b"**",
            b"*/a",
        ),
        # A backend that cuts the fragment off would see another path than the routes.
        *(b"/ws#/../admin", b"/ws?a#b", b"http://a#b", b"#"),
    ],
)
def test_forms_that_are_refused(target):
    with pytest.raises(BadHead) as caught:
        split_target(target)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", "/"),
        (b"/ws", "/ws"),
        (b"/ws/", "/ws/"),
        (b"//", "//"),
        (b"/a//b", "/a//b"),
        (b"/a/./b", "/a/b"),
        (b"/a/../b", "/b"),
        (b"/a/b/..", "/a/"),
        (b"/a/b/.", "/a/b/"),
        (b"/..", "/"),
        (b"/../../a", "/a"),
        (b"/a/b/../../../../c", "/c"),
        (b"/a//../b", "/a/b"),
        (b"/.hidden/..x/...", "/.hidden/..x/..."),
        (b"/%77%73", "/ws"),
        (b"/%7euser/%2D%5F", "/~user/-_"),
        (b"/a/%2e%2E/b", "/b"),
        (b"/a/%2E/b", "/a/b"),
        (b"/a%2fb", "/a%2Fb"),
        (b"/a/..%2fb", "/a/..%2Fb"),
        (b"/caf%c3%a9", "/caf%C3%A9"),
        (b"/%2577%73", "/%2577s"),
        (b"/%00%0a", "/%00%0A"),
        (b"/a+b%20c", "/a+b%20c"),
        (b"*", "*"),
    ],
)
def test_normal_path(path, normal):
    assert normal_path(path) == normal


@pytest.mark.parametrize("path", [b"/%zz", b"/%", b"/a%", b"/%4", b"/%4/x", b"/%%34%31", b"/%u0041", b"/% 41", b"/%-1"])
def test_malformed_escapes(path):
    with pytest.raises(BadHead, match="percent-encoding") as caught:
        normal_path(path)
    assert caught.value.status == 400


def without_dot_segments(path):
    """RFC 3986 section 5.2.4, word for word."""
    output = ""
    while path:
        if path.startswith("../"):
            path = path[3:]
        elif path.startswith("./") or path.startswith("/./"):
            path = path[2:]
        elif path == "/.":
            path = "/"
        elif path.startswith("/../"):
            path = path[3:]
            output = output.rpartition("/")[0]
        elif path == "/..":
            path = "/"
            output = output.rpartition("/")[0]
        elif path in (".", ".."):
            path = ""
        else:
            end = path.find("/", 1)
            end = len(path) if end < 0 else end
            output += path[:end]
            path = path[end:]
    return output


PATHS = st.lists(st.sampled_from(["/", "/", ".", "..", "a", "~", ";", "..."])).map(lambda parts: "/" + "".join(parts))


@given(PATHS)
def test_dot_segments_as_the_rfc_removes_them(path):
    assert normal_path(path.encode()) == without_dot_segments(path)


@given(PATHS, st.data())
def test_every_spelling_is_the_same_path(path, data):
    spelled = b""
    for character in path:
        if character in "/;" or data.draw(st.booleans()):
            spelled += character.encode()
        else:
            escape = f"{ord(character):02x}"
            spelled += b"%" + data.draw(st.sampled_from([escape, escape.upper()])).encode()
    assert normal_path(spelled) == normal_path(path.encode())


@given(st.lists(st.sampled_from([b"/", b".", b"%2e", b"%2F", b"%25", b"41", b"a", b"\xe9", b"%C3"])))
def test_a_normal_path_is_its_own(parts):
    normal = normal_path(b"/" + b"".join(parts))
    assert normal.startswith("/")
    assert normal_path(normal.encode("latin-1")) == normal
    assert not {".", ".."} & set(normal.split("/"))
