"""Hostile targets: a 400, or a path that says the same to everyone."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.http import BadHead
from gateway.protocol.target import normal_path, split_target

from .pieces import MANY

PIECES = st.sampled_from(
    [
        *(b"/", b"//", b".", b"..", b"%", b"%2", b"%2e", b"%2F", b"%00", b"%zz", b"%c3%a9", b"%25", b"a", b"?", b"#"),
        *(b"*", b"http://", b"HTTPS://", b"ws://", b"@", b":80", b"[::1]", b"\\", b"\xe9", b";", b" ", b"\0", b"\r\n"),
    ]
)
TARGETS = st.binary(max_size=60) | st.lists(PIECES, max_size=12).map(b"".join)


def tried(function, argument):
    """What a function makes of it, or the status of its refusal."""
    try:
        return function(argument)
    except BadHead as error:
        return error.status


@given(TARGETS)
@MANY
def test_any_target(target):
    parts = tried(split_target, target)
    if parts == 400:
        return
    authority, path, query = parts
    assert target.endswith(query)
    assert b"#" not in target
    assert path.startswith(b"/") or target == b"*"
    assert authority is None or (b"/" not in authority and target.lower().startswith((b"http://", b"https://")))


@given(TARGETS.map(lambda target: b"/" + target))
@MANY
def test_any_path(path):
    normal = tried(normal_path, path)
    if normal == 400:
        return
    assert not {".", ".."} & set(normal.split("/"))
    assert normal_path(normal.encode("latin-1")) == normal
