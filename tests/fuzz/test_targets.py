"""Hostile targets: a 400, or a path that says the same to everyone."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.heads import BadHead
from gateway.protocol.target import normal_path, origin_form, same_authority, split_target

from .pieces import MANY

PIECES = st.sampled_from(
    [
        *(b"/", b"//", b".", b"..", b"%", b"%2", b"%2e", b"%2F", b"%00", b"%zz", b"%c3%a9", b"%25", b"a", b"?", b"#"),
        *(b"*", b"http://", b"HTTPS://", b"ws://", b"@", b":80", b"[::1]", b"\\", b"\xe9", b";", b" ", b"\0", b"\r\n"),
        *(b"%5c", b"%3b", b"..;", b"/../"),
    ]
)
TARGETS = st.binary(max_size=60) | st.lists(PIECES, max_size=12).map(b"".join)
METHODS = st.sampled_from([b"GET", b"OPTIONS", b"CONNECT", b"X"])


def tried(function, *arguments):
    """What a function makes of them, or the status of its refusal."""
    try:
        return function(*arguments)
    except BadHead as error:
        return error.status


@given(TARGETS, METHODS)
@MANY
def test_any_target(target, method):
    parts = tried(split_target, target, method)
    sent = tried(origin_form, target, method)
    if parts == 400:
        assert sent == 400
        return
    scheme, authority, path, query = parts
    assert sent == path + query
    assert target.endswith(query)
    assert b"#" not in target
    assert path.startswith(b"/") or (path == b"*" and method == b"OPTIONS" and not query)
    if authority is None:
        assert not scheme
        assert sent == target
    else:
        assert target.lower().startswith(scheme + b"://" + authority.lower())
        assert not set(authority) & set(b"/@?#\\ \r\n\0")


@given(TARGETS.map(lambda target: b"/" + target))
@MANY
def test_any_path(path):
    normal = tried(normal_path, path)
    if normal == 400:
        return
    assert not {".", ".."} & set(normal.split("/"))
    assert normal_path(normal.encode("latin-1")) == normal


@given(st.sampled_from([b"http", b"https"]), TARGETS, TARGETS)
@MANY
def test_any_authorities(scheme, one, other):
    assert same_authority(scheme, one, other) == same_authority(scheme, other, one)
    assert same_authority(scheme, one, one)
