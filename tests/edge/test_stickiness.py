"""What decides a request's backend, and the cookie that has a client come back."""

import re

import pytest

from gateway.edge.stickiness import key_of, with_cookie
from gateway.edge.trust import Peer

from ..routing.tables import routes_of
from .requests import PROXY, STRANGER, TRUST, examined, request_head

pytestmark = pytest.mark.either_build

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def balanced(**upstream):
    return routes_of({}, upstreams={"chat": {"backends": ["a:1", "b:1"]} | upstream}, secret=b"a secret")


def asking(routes, *fields, peer=STRANGER, path=b"/x?room=7"):
    lines = [b"%b: %b" % field for field in fields]
    return examined(request_head(b"GET %b HTTP/1.1" % path, b"Host: x", *lines), peer, routes)


def key(hash_on, *fields, **how):
    return key_of(asking(balanced(balance="consistent_hash", hash_on=hash_on), *fields, **how), TRUST)


def test_policies_that_do_not_hash_need_no_key():
    assert key_of(asking(balanced()), TRUST) is None
    assert key_of(asking(balanced(balance="sticky")), TRUST) is None


@pytest.mark.parametrize("hash_on", ["client_ip", "header:X-Room", "cookie:room", "query:other"])
def test_the_clients_address_is_the_key_or_what_is_left(hash_on):
    assert key(hash_on) == b"192.0.2.7"
    assert key(hash_on, peer=Peer("192.0.2.7", 5001, False)) == b"192.0.2.7"
    assert key(hash_on, peer=Peer("", 0, True)) == b"unix"
    assert key(hash_on, (b"X-Forwarded-For", b"198.51.100.1:99"), peer=PROXY) == b"198.51.100.1"
    assert key(hash_on, (b"X-Forwarded-For", b"198.51.100.1")) == b"192.0.2.7"  # said by nobody who is trusted


def test_what_the_request_says_comes_first():
    assert key("query:room") == b"7"
    assert key("header:X-Room", (b"X-Room", b"8")) == b"8"
    assert key("cookie:room", (b"Cookie", b"room=9")) == b"9"
    assert key("path") == b"/x"


def test_nothing_is_added_where_backends_are_not_sticky():
    request = asking(balanced())
    assert with_cookie(HEAD, request, request.route.upstream.targets[0]) is HEAD


@pytest.mark.parametrize(
    ("peer", "fields", "secure"),
    [
        (STRANGER, [], False),
        (STRANGER, [(b"X-Forwarded-Proto", b"https")], False),
        (Peer("192.0.2.7", 1, False, is_tls=True), [], True),
        (PROXY, [(b"X-Forwarded-Proto", b"https")], True),
        (PROXY, [(b"X-Forwarded-Proto", b"http, HTTPS")], True),
        (PROXY, [(b"X-Forwarded-Proto", b"wss")], True),
        (PROXY, [(b"X-Forwarded-Proto", b"http")], False),
        (PROXY, [], False),
        (Peer("10.1.2.3", 1, True, is_tls=True), [(b"X-Forwarded-Proto", b"http")], False),
    ],
)
def test_it_is_secure_where_the_client_speaks_tls(peer, fields, secure):
    request = asking(balanced(balance="sticky"), *fields, peer=peer)
    head = with_cookie(HEAD, request, request.route.upstream.targets[0])
    cookie = rb"Set-Cookie: gateway_backend=(\S+); Path=/; HttpOnly; SameSite=Lax(.*)\r\n"
    match = re.fullmatch(rb"(HTTP.*2\r\n)" + cookie + rb"\r\n", head, re.DOTALL)
    assert match[1] + b"\r\n" == HEAD
    assert (match[3] == b"; Secure") is secure
    again = asking(balanced(balance="sticky"), (b"Cookie", b"gateway_backend=" + match[2]))
    assert key_of(again, TRUST) == match[2]
    assert with_cookie(HEAD, again, again.route.upstream.targets[0]) is HEAD
