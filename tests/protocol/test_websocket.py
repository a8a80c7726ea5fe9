"""The opening handshake, from both sides."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.utils import accept_key

from gateway.protocol.heads import BadHead
from gateway.protocol.websocket import (
    StrippedUpgrade,
    accept_of,
    check_handshake,
    check_not_stripped,
    has_body,
    refusal_of_101,
    requested_upgrades,
)

from .heads import ACCEPT, handshake, request_head, response_head

pytestmark = pytest.mark.either_build

KEY = b"Uc9l9TMkWGbHFD2qnFHltg=="


def test_the_accept_of_the_issue():
    assert accept_of(KEY) == ACCEPT == b"1qVdfYHU9hPOl4JYYNXF623Gzn0="


@given(st.binary(min_size=16, max_size=16))
def test_any_key(nonce):
    key = base64.b64encode(nonce)
    assert accept_of(key).decode() == accept_key(key.decode())
    assert check_handshake(handshake(without=b"Sec-WebSocket-Key", more=(b"Sec-WebSocket-Key: " + key,))) == key


@pytest.mark.parametrize(
    "lines",
    [
        (b"Upgrade: websocket", b"Connection: Upgrade"),
        (b"upgrade: WebSocket", b"connection: upgrade"),
        (b"Upgrade: websocket", b"Connection: keep-alive, Upgrade"),
        (b"Connection: keep-alive", b"Upgrade: websocket", b"CONNECTION: UPGRADE"),
        (b"Connection: keep-alive ,\tuPGRADE ,", b"Upgrade: , websocket"),
        (b"Upgrade: websocket \t", b"Connection: Upgrade "),
    ],
)
def test_ways_to_ask_for_websocket(lines):
    assert requested_upgrades(request_head(b"GET / HTTP/1.1", b"Host: a", *lines)) == [b"websocket"]


@pytest.mark.parametrize(
    ("lines", "protocols"),
    [
        ((b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMA"), [b"h2c"]),
        ((b"Upgrade: h2c, WebSocket", b"Connection: Upgrade"), [b"h2c", b"websocket"]),
        ((b"Upgrade: IRC/6.9", b"Upgrade: tcp", b"Connection: Upgrade"), [b"irc/6.9", b"tcp"]),
        ((b"Upgrade:", b"Connection: Upgrade"), []),
        ((b"Upgrade: websocket",), []),
        ((b"Connection: Upgrade",), []),
        ((b"Upgrade: websocket", b"Connection: keep-alive"), []),
        ((b"Upgrade: websocket", b"Connection: upgraded"), []),
        ((b"Upgrade: websocket", b"Connection: keep-alive Upgrade"), []),
    ],
)
def test_requested_upgrades(lines, protocols):
    assert requested_upgrades(request_head(b"GET / HTTP/1.1", b"Host: a", *lines)) == protocols


def test_an_upgrade_in_http10_is_ignored():
    assert requested_upgrades(handshake(version=b"1.0")) == []


def test_the_handshake_of_the_issue():
    assert check_handshake(handshake()) == KEY


def refusal(check, head):
    with pytest.raises(BadHead) as caught:
        check(head)
    return caught.value


@pytest.mark.parametrize(
    "versions", [(), (b"8",), (b"13, 8",), (b"8", b"13"), (b"13", b"13"), (b"013",), (b"",), (b"1 3",)]
)
def test_other_versions(versions):
    lines = tuple(b"Sec-WebSocket-Version: " + version for version in versions)
    error = refusal(check_handshake, handshake(without=b"Sec-WebSocket-Version", more=lines))
    assert error.status == 426
    assert "13" in str(error)


@pytest.mark.parametrize(
    "keys",
    [
        (),
        (b"",),
        (b"Uc9l9TMkWGbHFD2qnFHltg",),
        (b"Uc9l9TMkWGbHFD2qnFHltg=",),
        (b"Uc9l9TMkWGbHFD2qnFHltgAA",),
        (b"Uc9l9TMkWGbHFD2qnFH_tg==",),
        (b"Uc9l9TMkWGbHF 2qnFHltg==",),
        (b"QUJDRA==",),
        (base64.b64encode(bytes(17)),),
        (KEY + KEY,),
        (KEY, KEY),
        (KEY + b", " + KEY,),
    ],
)
def test_bad_keys(keys):
    lines = tuple(b"Sec-WebSocket-Key: " + key for key in keys)
    assert refusal(check_handshake, handshake(without=b"Sec-WebSocket-Key", more=lines)).status == 400


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE"])
def test_other_methods(method):
    assert refusal(check_handshake, handshake(method=method)).status == 400


@pytest.mark.parametrize("line", [b"Content-Length: 1", b"Content-Length: 010", b"Transfer-Encoding: chunked"])
def test_bodies(line):
    head = handshake(more=(line,))
    assert has_body(head)
    assert refusal(check_handshake, head).status == 400


@pytest.mark.parametrize("line", [b"Content-Length: 0", b"Content-Length: 00 "])
def test_no_body(line):
    head = handshake(more=(line,))
    assert not has_body(head)
    assert check_handshake(head) == KEY


@pytest.mark.parametrize(
    ("head", "missing"),
    [
        (handshake(without=b"Upgrade"), ["Upgrade: websocket"]),
        (handshake(without=b"Upgrade", more=(b"Upgrade: h2c",)), ["Upgrade: websocket"]),
        (handshake(without=b"Connection"), ["Connection: Upgrade"]),
        (handshake(without=b"Connection", more=(b"Connection: close",)), ["Connection: Upgrade"]),
        (handshake(version=b"1.0"), ["HTTP/1.1"]),
        (
            request_head(b"GET / HTTP/1.0", b"Sec-WebSocket-Key: " + KEY),
            ["Upgrade: websocket", "Connection: Upgrade", "HTTP/1.1"],
        ),
    ],
)
def test_stripped(head, missing):
    error = refusal(check_not_stripped, head)
    assert isinstance(error, StrippedUpgrade)
    assert error.status == 426
    assert str(error).partition("without ")[2].partition(": a proxy")[0].split(" and ") == missing
    assert "no Via and no X-Forwarded-*" in str(error)


def test_what_a_stripped_one_went_through():
    head = handshake(
        without=b"Connection",
        more=(b"Via: 1.1 old-proxy", b"X-Forwarded-For: 192.0.2.7", b"x-forwarded-proto: https", b"Forwarded: for=x"),
    )
    error = str(refusal(check_not_stripped, head))
    for passed in ("Via: 1.1 old-proxy", "X-Forwarded-For: 192.0.2.7", "x-forwarded-proto: https", "Forwarded: for=x"):
        assert passed in error
    assert "Sec-WebSocket-Version" not in error
    assert "no Via" not in error


def test_a_long_via_is_cut():
    error = str(refusal(check_not_stripped, handshake(without=b"Upgrade", more=(b"Via: " + b"a" * 5000,))))
    assert "a" * 200 in error
    assert "a" * 201 not in error


@pytest.mark.parametrize(
    "head", [handshake(), handshake(without=b"Sec-WebSocket-Key"), request_head(b"GET / HTTP/1.0", b"Via: 1.1 x")]
)
def test_not_stripped(head):
    check_not_stripped(head)


SWITCHING = (b"HTTP/1.1 101 Switching Protocols",)
UPGRADE = (b"Upgrade: WebSocket", b"Connection: keep-alive, upgrade")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((*UPGRADE, b"Sec-WebSocket-Accept: " + ACCEPT), None),
        ((*UPGRADE, b"sec-websocket-accept: " + ACCEPT + b" \t"), None),
        (UPGRADE, "Accept"),
        ((*UPGRADE, b"Sec-WebSocket-Accept: " + ACCEPT.lower()), "Accept"),
        ((*UPGRADE, b"Sec-WebSocket-Accept: " + accept_of(b"AAAAAAAAAAAAAAAAAAAAAA==")), "Accept"),
        ((*UPGRADE, *[b"Sec-WebSocket-Accept: " + ACCEPT] * 2), "Accept"),
        ((b"Upgrade: websocket", b"Sec-WebSocket-Accept: " + ACCEPT), "Connection"),
        ((b"Connection: upgrade", b"Sec-WebSocket-Accept: " + ACCEPT), "protocol"),
        ((b"Upgrade: h2c", b"Connection: upgrade", b"Sec-WebSocket-Accept: " + ACCEPT), "protocol"),
        ((b"Upgrade: h2c, websocket", b"Connection: upgrade", b"Sec-WebSocket-Accept: " + ACCEPT), "protocol"),
        ((b"Sec-WebSocket-Accept: " + ACCEPT,), "protocol"),
    ],
)
def test_the_backends_101(lines, reason):
    refused = refusal_of_101(response_head(*SWITCHING, *lines), b"websocket", KEY)
    assert refused is None if reason is None else reason in refused


def test_a_101_to_another_protocol_has_no_key():
    head = response_head(*SWITCHING, b"Upgrade: TCP", b"Connection: Upgrade")
    assert refusal_of_101(head, b"tcp", None) is None
    assert refusal_of_101(head, b"websocket", None) is not None
