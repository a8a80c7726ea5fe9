"""What like handshakes ask for is found out once, and is what would have been found for each of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.refused import Refused
from gateway.protocol.known_heads import KnownHeads
from gateway.protocol.requests import RequestReader
from gateway.routing.routes import MAX_KNOWN_BYTES

from .requests import examined, in_force

pytestmark = pytest.mark.either_build

ROUTES = (
    {"name": "rooms", "match": {"path": "/rooms"}},
    {"name": "exact", "match": {"path_exact": "/exact"}},
    {"name": "plain", "match": {"path": "/plain"}, "upgrades": []},
    {"name": "moved", "match": {"path": "/old"}, "rewrite": {"strip_prefix": "/old"}},
)
LOOKS = (
    {"match": {"query": {"v": "2"}}},
    {"match": {"headers": {"X-Tier": "one"}}},
)
PATHS = [
    "/",
    "/rooms",
    "/rooms/1",
    "/roomsx",
    "/exact",
    "/exact/",
    "/plain",
    "/old/x",
    "/a/../rooms",
    "/%2e%2e/rooms",
    "//x",
]
KEYS = [b"dGhlIHNhbXBsZSBub25jZQ==", b"AAAAAAAAAAAAAAAAAAAAAA=="]


def bytes_of(target: str, key: bytes = KEYS[0]) -> bytes:
    return (
        b"GET %b HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (target.encode(), key)
    )


def asked_for(head, config):
    """What a head asks for, or why it is refused."""
    assert head is not None
    try:
        request = examined(head, config=config)
    except Refused as refused:
        return refused.status, refused.reason, refused.result
    return (
        request.route.name,
        request.host,
        request.path,
        request.rewritten,
        request.target,
        request.upgrade,
        request.key,
    )


def read(data: bytes):
    return RequestReader().feed(data)


def knowing(config) -> KnownHeads:
    known = KnownHeads()
    head = read(bytes_of("/rooms"))
    assert head is not None
    examined(head, config=config)
    known.remember(head)
    return known


@given(
    st.lists(
        st.tuples(st.sampled_from(PATHS), st.sampled_from(["", "?", "?v=2", "?v=3"]), st.sampled_from(KEYS)), max_size=9
    )
)
@pytest.mark.parametrize("further", [(), *((route,) for route in LOOKS)], ids=["path", "query", "field"])
def test_it_is_what_each_would_have_been_found_to_ask_for(further, asked):
    routes = (*({"name": "further", **route} for route in further), *ROUTES)
    config = in_force(*routes)
    known = knowing(config)
    for path, query, key in asked:
        data = bytes_of(path + query, key)
        head = known.find(data)
        assert head is not None
        assert head.like is not None
        assert asked_for(head, config) == asked_for(read(data), config)


def test_like_handshakes_are_looked_at_once():
    config = in_force(*ROUTES)
    known = knowing(config)
    assert config.routes.sought is not None
    for n in range(5):
        examined(known.find(bytes_of(f"/rooms?n={n}", KEYS[n % 2])), config=config)
    assert len(config.routes.sought) == 1
    examined(known.find(bytes_of("/rooms/1")), config=config)
    assert len(config.routes.sought) == 2


def test_what_is_refused_is_looked_at_each_time():
    config = in_force(*ROUTES)
    known = knowing(config)
    assert config.routes.sought is not None
    for _ in range(2):
        with pytest.raises(Refused):
            examined(known.find(bytes_of("/nowhere")), config=config)
    assert len(config.routes.sought) == 0


def test_long_paths_are_not_kept():
    config = in_force(*ROUTES)
    examined(knowing(config).find(bytes_of("/rooms/" + "x" * MAX_KNOWN_BYTES)), config=config)
    assert len(config.routes.sought) == 0
