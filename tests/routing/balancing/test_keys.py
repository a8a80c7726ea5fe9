"""What of a request is hashed."""

import pytest

from gateway.protocol.heads import RequestHead
from gateway.routing.balancing.keys import key_of

TARGET = b"/ws/room%2F1?token=x&room=7&room=8&sid=a%20b&empty=&xroom=9"
HEAD = RequestHead(
    [
        (b"Host", b"chat.example.com"),
        (b"X-Room", b" 7 "),
        (b"Cookie", b'first=1; session=abc==; quoted="x"'),
        (b"Cookie", b"other=2;session=later"),
    ]
)


@pytest.mark.parametrize(
    ("hash_on", "key"),
    [
        ("path", b"/ws/room%2F1"),
        ("header:x-room", b"7"),
        ("header:X-ROOM", b"7"),
        ("header:X-Other", b""),
        ("cookie:session", b"abc=="),
        ("cookie:first", b"1"),
        ("cookie:other", b"2"),
        ("cookie:quoted", b'"x"'),
        ("cookie:Session", b""),
        ("cookie:ession", b""),
        ("query:room", b"7"),
        ("query:sid", b"a%20b"),
        ("query:empty", b""),
        ("query:Room", b""),
        ("query:oom", b""),
    ],
)
def test_where_a_key_is(hash_on, key):
    assert key_of(hash_on)(HEAD, TARGET) == key


@pytest.mark.parametrize("hash_on", ["path", "header:x", "cookie:x", "query:x"])
def test_a_request_with_little_in_it(hash_on):
    assert key_of(hash_on)(RequestHead([]), b"/") == (b"/" if hash_on == "path" else b"")


def test_the_clients_address_is_not_in_a_head():
    assert key_of("client_ip") is None
