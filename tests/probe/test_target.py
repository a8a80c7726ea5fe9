"""What a user may give as a target."""

import pytest

from gateway.probe.target import BadTarget, parse_target
from gateway.protocol.requests import RequestReader
from gateway.protocol.websocket import check_handshake, requested_upgrades

KEY = b"Uc9l9TMkWGbHFD2qnFHltg=="


def head_of(target):
    head = RequestReader().feed(target.request(KEY))
    assert head is not None
    return head


@pytest.mark.parametrize(
    ("url", "tls", "host", "port", "resource", "authority"),
    [
        ("ws://example.com", False, "example.com", 80, "/", b"example.com"),
        ("wss://example.com/chat?room=1&x=%20", True, "example.com", 443, "/chat?room=1&x=%20", b"example.com"),
        ("ws://example.com:80/", False, "example.com", 80, "/", b"example.com"),
        ("wss://example.com:8443", True, "example.com", 8443, "/", b"example.com:8443"),
        ("http://127.0.0.1:8080/a", False, "127.0.0.1", 8080, "/a", b"127.0.0.1:8080"),
        ("HTTPS://EXAMPLE.com/", True, "example.com", 443, "/", b"example.com"),
        ("ws://[::1]:9000/x", False, "::1", 9000, "/x", b"[::1]:9000"),
        ("ws://bücher.example/a b/ü?q=ä", False, "xn--bcher-kva.example", 80, "/a%20b/%C3%BC?q=%C3%A4", None),
        ("ws://example.com?only=query", False, "example.com", 80, "/?only=query", b"example.com"),
    ],
)
def test_urls(url, tls, host, port, resource, authority):
    target = parse_target(url)
    assert (target.tls, target.host, target.port, target.resource) == (tls, host, port, resource)
    head = head_of(target)
    assert (head.method, head.target) == (b"GET", resource.encode())
    assert authority is None or head.values(b"host") == [authority]


def test_the_request_is_a_handshake():
    head = head_of(parse_target("ws://example.com/"))
    assert requested_upgrades(head) == [b"websocket"]
    assert check_handshake(head) == KEY
    assert head.values(b"user-agent")[0].startswith(b"upgrade-gateway-probe/")
    assert b"sec-websocket-extensions" not in head.first
    assert b"origin" not in head.first


def test_fields_of_the_user():
    target = parse_target(
        "wss://user:p%40ss@example.com/",
        headers=("X-Tenant: blue", "cookie:a=b; c=d", "X-Empty:", "X-Name: ü"),
        subprotocols=("v12.stomp", "v11.stomp"),
        origin="https://app.example.com",
    )
    head = head_of(target)
    assert head.values(b"x-tenant") == [b"blue"]
    assert head.values(b"cookie") == [b"a=b; c=d"]
    assert head.values(b"x-empty") == [b""]
    assert head.values(b"x-name") == ["ü".encode()]
    assert head.values(b"sec-websocket-protocol") == [b"v12.stomp, v11.stomp"]
    assert head.values(b"origin") == [b"https://app.example.com"]
    assert head.values(b"authorization") == [b"Basic dXNlcjpwQHNz"]
    assert "p%40ss" not in target.url
    assert "p@ss" not in target.url


def test_a_host_and_a_user_agent_of_the_users_own():
    head = head_of(parse_target("ws://u@127.0.0.1/", ("Host: chat.example.com", "User-Agent: x", "Authorization: y")))
    assert head.values(b"host") == [b"chat.example.com"]
    assert head.values(b"user-agent") == [b"x"]
    assert head.values(b"authorization") == [b"y"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "ws://",
        "ws:///path",
        "ws://example.com:port/",
        "ws://example.com:99999/",
        "ws://example.com:0/",
        "ws://[::1/",
        "ws://example.com/#fragment",
        "ws://exa mple.com/",
        "ws://" + "x" * 70 + ".example/",
        "ws://a\x7fb/",
    ],
)
def test_no_urls(url):
    with pytest.raises(BadTarget):
        parse_target(url)


def test_a_line_break_does_not_end_the_request_line():
    head = head_of(parse_target("ws://example.com/a\r\nX-Evil: 1"))
    assert b"x-evil" not in head.first


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("no colon", "NAME:VALUE"),
        (":value", "NAME:VALUE"),
        ("a b: c", "NAME:VALUE"),
        ("X-A: b\r\nX-C: d", "control characters"),
        ("X-A: \x00", "control characters"),
        ("Upgrade: h2c", "handshake sets this itself"),
        ("connection: close", "handshake sets this itself"),
        ("Sec-WebSocket-Protocol: x", "--subprotocol"),
        ("Sec-WebSocket-Extensions: permessage-deflate", "handshake sets this itself"),
        ("Content-Length: 3", "handshake sets this itself"),
    ],
)
def test_no_headers(header, says):
    with pytest.raises(BadTarget, match=says):
        parse_target("ws://example.com/", (header,))


@pytest.mark.parametrize("origin", ["a\r\nb: c", "\x01"])
def test_no_origins(origin):
    with pytest.raises(BadTarget):
        parse_target("ws://example.com/", origin=origin)


@pytest.mark.parametrize("subprotocol", ["", "a b", "a,b", "ü"])
def test_no_subprotocols(subprotocol):
    with pytest.raises(BadTarget, match="subprotocol"):
        parse_target("ws://example.com/", subprotocols=(subprotocol,))
