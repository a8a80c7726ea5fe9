"""What a backend is sent of a request, and a client of an answer."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.forwarding import (
    answer_to_client,
    interim_to_client,
    switch_to_client,
)
from gateway.edge.to_backend import request_to_backend, upgrade_to_backend
from gateway.edge.trust import Peer
from gateway.protocol.heads import RequestHead, ResponseHead
from gateway.protocol.requests import RequestReader

from ..protocol.heads import HANDSHAKE, head_bytes, response_head
from ..routing.tables import routes_of
from .requests import PROXY, STRANGER, examined, handshake, in_force, request_head

UNIX = Peer("", 0, True)
OURS = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "CDN-Loop", "X-Request-Id")


def sent(head, peer=STRANGER, routes=None):
    """The lines that a backend gets of a handshake; the gateway's own fields, as a dict."""
    request = examined(head, peer, *([routes] if routes else []))
    lines = upgrade_to_backend(request, in_force()).decode("latin-1").split("\r\n")
    assert lines[-2:] == ["", ""]
    own = dict(line.split(": ", 1) for line in lines[-7:-2])
    assert tuple(own) == OURS
    assert own["X-Request-Id"] == request.request_id
    assert own["CDN-Loop"] == "gateway-abc"
    return lines[:-7], own


def test_the_handshake_of_the_issue():
    lines, own = sent(handshake())
    assert lines == [
        "GET /ws HTTP/1.1",
        "Host: chat.example.com",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: Uc9l9TMkWGbHFD2qnFHltg==",
        "Sec-WebSocket-Version: 13",
    ]
    assert own["X-Forwarded-For"] == "192.0.2.7"
    assert own["X-Forwarded-Proto"] == "http"
    assert own["X-Forwarded-Host"] == "chat.example.com"


def test_request_line_order_case_and_repetitions_stay():
    lines = [
        "GET /a/../ws/%77?token=%zz&b HTTP/1.1",
        "hOsT: Chat.Example.com:8080",
        "uPGRADE: WebSocket",
        "X-Two: 1",
        "cookie: a=1",
        "CONNECTION: Upgrade",
        "Sec-WebSocket-Protocol: mqtt, v10.stomp",
        "Cookie: b=2",
        "x-two: caf\xe9",
        "sec-websocket-KEY: Uc9l9TMkWGbHFD2qnFHltg==",
        "Sec-WebSocket-Version: 13",
        "X-Two: 1",
        "Sec-WebSocket-Protocol: mqtt",
        "X-Empty: ",
    ]
    assert sent(request_head(*(line.encode("latin-1") for line in lines)))[0] == lines


def without_handshake(lines):
    """Lines that a handshake needs are in each of these requests: what is there beside them."""
    known = ("GET ", "Host:", "Upgrade:", "Connection:", "Sec-WebSocket-Key:", "Sec-WebSocket-Version:")
    return [line for line in lines if not line.startswith(known)]


@pytest.mark.parametrize(
    "line",
    [
        b"Keep-Alive: timeout=5",
        b"keep-alive: x",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic x",
        b"Proxy-Authenticate: Basic",
        b"TE: trailers",
        b"X-Forwarded-For: 1.1.1.1",
        b"x-forwarded-PROTO: https",
        b"X-Forwarded-Host: evil",
        b"X-REQUEST-ID: evil",
    ],
)
def test_fields_of_one_connection_and_of_ours_are_removed(line):
    assert without_handshake(sent(handshake(more=(b"X-A: 1", line, b"X-B: 2", line)))[0]) == ["X-A: 1", "X-B: 2"]


def test_fields_that_connection_names_are_removed():
    head = handshake(
        without=b"Connection",
        more=(b"Connection: X-Secret, upgrade", b"x-secret: 1", b"X-Other: 2", b"connection: x-more", b"X-MORE: 3"),
    )
    lines = sent(head)[0]
    assert without_handshake(lines) == ["X-Other: 2"]
    assert "Connection: Upgrade" in lines
    assert sum(line.lower().startswith("connection:") for line in lines) == 1


@pytest.mark.parametrize(
    "line",
    [
        *("Host", "Cookie", "Authorization", "Origin", "Content-Length"),
        *("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Sec-Fetch-Site"),
    ],
)
def test_fields_that_connection_may_not_remove(line):
    more = (b"Sec-WebSocket-Protocol: x", b"Content-Length: 0", b"Cookie: x", b"Authorization: x", b"Origin: x")
    named = b"Connection: Upgrade, " + line.lower().encode()
    lines = sent(handshake(without=b"Connection", more=(*more, b"Sec-Fetch-Site: x", named)))[0]
    assert any(sent_line.startswith(line + ": ") for sent_line in lines)


def test_of_several_protocols_the_one_of_the_route_is_asked_for():
    more = (b"Upgrade: h2c, websocket", b"upgrade: tcp", b"HTTP2-Settings: x", b"connection: HTTP2-Settings")
    lines = sent(handshake(without=b"Upgrade", more=more))[0]
    assert [line for line in lines if line.lower().startswith("upgrade:")] == ["Upgrade: websocket"]
    assert without_handshake(lines) == []
    lines = sent(handshake(without=b"Upgrade", more=(b"Upgrade: h2c, websocket",)))[0]
    assert lines[-1] == "Upgrade: websocket"
    tcp = request_head(b"POST / HTTP/1.1", b"Host: a", b"Upgrade: x, TCP", b"Connection: keep-alive, Upgrade")
    lines = sent(tcp, routes=routes_of({"upgrades": ["tcp"]}))[0]
    assert lines == ["POST / HTTP/1.1", "Host: a", "Upgrade: tcp", "Connection: Upgrade"]


# --- X-Forwarded-* ----------------------------------------------------------------------------------------------------

SAID = (
    b"X-Forwarded-For: 1.1.1.1",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-For: 2.2.2.2, 3.3.3.3",
    b"X-Forwarded-Host: public.example.com",
    b"X-Request-Id: abc",
)


@pytest.mark.parametrize(
    ("peer", "said", "values"),
    [
        (STRANGER, (), ("192.0.2.7", "http", "chat.example.com", None)),
        (STRANGER, SAID, ("192.0.2.7", "http", "chat.example.com", None)),
        (PROXY, (), ("10.1.2.3", "http", "chat.example.com", None)),
        (PROXY, SAID, ("1.1.1.1, 2.2.2.2, 3.3.3.3, 10.1.2.3", "https", "public.example.com", "abc")),
        (UNIX, (), ("unix:", "http", "chat.example.com", None)),
        (UNIX, SAID, ("1.1.1.1, 2.2.2.2, 3.3.3.3", "https", "public.example.com", "abc")),
        (Peer("2001:db8::1", 1, True), SAID[:1], ("1.1.1.1, 2001:db8::1", "http", "chat.example.com", None)),
    ],
)
def test_forwarded(peer, said, values):
    lines, own = sent(handshake(more=said), peer)
    assert without_handshake(lines) == []
    assert tuple(own.values())[:3] == values[:3]
    assert own["X-Request-Id"] == values[3] or (values[3] is None and len(own["X-Request-Id"]) == 32)


NAMES = st.sampled_from(
    ["X-A", "x-a", "Cookie", "Te", "KEEP-ALIVE", "X-Forwarded-For", "Via", "Proxy-Authorization", "X-Request-ID"]
)
VALUES = st.sampled_from(["", "a", "a, b", "caf\xe9", "1.1.1.1"])


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_any_fields(fields):
    more = tuple(f"{name}: {value}".encode("latin-1") for name, value in fields)
    kept = [f"{name}: {value}" for name, value in fields if name in ("X-A", "x-a", "Cookie", "Via")]
    lines, own = sent(handshake(more=more))
    assert without_handshake(lines) == kept
    assert own["X-Forwarded-For"] == "192.0.2.7"


@given(st.lists(st.tuples(NAMES | st.sampled_from(["Connection", "Upgrade", "Sec-X"]), VALUES)), st.booleans())
def test_a_head_that_goes_on_as_it_came_is_the_same_as_one_put_together(fields, trusted):
    more = tuple(f"{name}: {value}".encode("latin-1") for name, value in fields)
    request = examined(handshake(more=more), PROXY if trusted else STRANGER)
    put_together = RequestHead(request.head.fields)
    put_together.method, put_together.target = request.head.method, request.head.target
    config = in_force()
    assert upgrade_to_backend(replace(request, head=put_together), config) == upgrade_to_backend(request, config)


@pytest.mark.parametrize("start", [b"GET  /ws HTTP/1.1", b"GET /ws  HTTP/1.1"])
def test_a_request_line_is_written_anew_where_others_could_read_it_differently(start):
    lines = sent(request_head(start, *HANDSHAKE[1:]))[0]
    assert lines[0] == "GET /ws HTTP/1.1"


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (b"http://chat.example.com/ws?a", "GET /ws?a HTTP/1.1"),
        (b"http://chat.example.com:80?/ws", "GET /?/ws HTTP/1.1"),
        (b"/ws//x?", "GET /ws//x? HTTP/1.1"),
    ],
)
def test_a_backend_is_sent_the_origin_form(target, line):
    head = request_head(b"GET %b HTTP/1.1" % target, *HANDSHAKE[1:])
    assert sent(head)[0] == [line, *(field.decode() for field in HANDSHAKE[1:])]


def test_empty_lines_before_a_request_are_not_sent():
    head = RequestReader().feed(b"\r\n\n" + head_bytes(*HANDSHAKE) + b"early")
    assert head is not None
    assert sent(head)[0] == [line.decode() for line in HANDSHAKE]


def test_what_is_sent_can_be_read_again():
    request = examined(handshake(more=SAID), PROXY)
    head = RequestReader().feed(upgrade_to_backend(request, in_force(underscores="pass")))
    assert head is not None
    head.first.pop(b"cdn-loop")  # or it would be one that came back
    assert examined(head, PROXY).key == request.key


# --- plain HTTP, and the way back -------------------------------------------------------------------------------------


def test_a_plain_request():
    head = request_head(
        b"POST / HTTP/1.1",
        b"Host: a",
        b"Transfer-Encoding: chunked",
        b"Connection: close, x-b, Content-Type",
        b"Upgrade: h2c",
        b"X-B: 1",
        b"x-c: 2",
        b"X-C: 3",
        b"X-Forwarded-For: 1.1.1.1",
    )
    lines = plain(head)
    assert lines[:5] == ["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "x-c: 2", "X-C: 3"]
    assert [line.partition(":")[0] for line in lines[5:]] == list(OURS)
    assert lines[5] == "X-Forwarded-For: 192.0.2.7"


def plain(head, **keys):
    """The lines that a backend gets of a plain request. :param keys: of the configuration"""
    config = in_force(**keys)
    lines = request_to_backend(examined(head, config=config), config).decode("latin-1").split("\r\n")
    assert lines[-2:] == ["", ""]
    return lines[:-2]


UNCLEAR = (b"X_Forwarded_For: 6", b"x-forwarded_for: 6", b"X_REQUEST-ID: 6")


@pytest.mark.parametrize(("underscores", "kept"), [("drop", ["X-A: 1"]), ("pass", ["X-A: 1", "X_Own: 2"])])
def test_fields_with_underscores(underscores, kept):
    more = (b"X-A: 1", b"X_Own: 2", *UNCLEAR)
    lines = plain(request_head(b"GET / HTTP/1.1", b"Host: a", *more), underscores=underscores)
    assert lines[2:-5] == kept
    request = examined(handshake(more=more), config=(config := in_force(underscores=underscores)))
    lines = upgrade_to_backend(request, config).decode().split("\r\n")
    assert without_handshake(lines)[:-7] == kept


@pytest.mark.parametrize("character", "!#$%&'*+.^_`|~")
def test_no_spelling_reads_like_a_field_of_the_gateways_own(character):
    """Servers of CGI's kind give all of them under one name."""
    names = ("X-Forwarded-For", "x-request-id", "X-Client-Cert-Subject", "Sec-WebSocket-Protocol", "Transfer-Encoding")
    evil = [name.replace("-", character).encode() + b": evil" for name in names]
    evil += [name.replace("-", character, 1).encode() + b": evil" for name in names]
    own = f"X{character}Own: 2"
    for config in (in_force(underscores="pass"), in_force({"headers": {"set": {"X-Env": "prod"}}}, underscores="pass")):
        head = request_head(b"GET / HTTP/1.1", b"Host: a", *evil, own.encode())
        assert request_to_backend(examined(head, config=config), config).count(b"evil") == 0
        made = upgrade_to_backend(examined(handshake(more=(*evil, own.encode())), config=config), config)
        assert made.count(b"evil") == 0
        assert made.count(own.encode()) == 1


def test_a_request_of_http10():
    head = request_head(b"POST /a HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 1")
    assert plain(head)[:3] == ["POST /a HTTP/1.1", "Host: chat", "Content-Length: 1"]


SWITCHING = response_head(
    b"HTTP/1.1 101 Switching it is",
    b"uPGRADE: websocket",
    b"Connection: Upgrade, x-hop",
    b"X-Hop: 1",
    b"Keep-Alive: timeout=5",
    b"Set-Cookie: a",
    b"Sec-WebSocket-Accept: x",
    b"set-cookie: b",
)


def test_the_backends_101():
    assert switch_to_client(SWITCHING).split(b"\r\n") == [
        b"HTTP/1.1 101 Switching it is",
        b"uPGRADE: websocket",
        b"Connection: Upgrade, x-hop",
        b"Set-Cookie: a",
        b"Sec-WebSocket-Accept: x",
        b"set-cookie: b",
        b"",
        b"",
    ]


@pytest.mark.parametrize(
    "line",
    [b"X: 1", b"Keep-Alive: x", b"Connection: x-hop", b"upgrade: websocket", b"Transfer-Encoding: chunked", b"TE: x"],
)
def test_a_101_that_goes_on_as_it_came_is_the_same_as_one_put_together(line):
    head = response_head(b"HTTP/1.1 101 Switching", b"Upgrade: websocket", b"Connection: upgrade", line, b"X-Hop: 1")
    put_together = ResponseHead(head.fields)
    put_together.status, put_together.reason = head.status, head.reason
    assert switch_to_client(put_together) == switch_to_client(head)


def test_a_101_of_http10_goes_on_as_http11():
    head = response_head(b"HTTP/1.0 101 Switching", b"Upgrade: websocket", b"Connection: upgrade")
    assert switch_to_client(head).startswith(b"HTTP/1.1 101 Switching\r\n")


def test_an_interim_answer():
    head = response_head(b"HTTP/1.1 103 Early Hints", b"Link: </a>", b"link: </b>")
    assert interim_to_client(head) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\n\r\n"


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_an_answer_that_declines_keeps_its_framing_and_closes(framing):
    head = response_head(b"HTTP/1.0 403 No", b"Connection: keep-alive", framing, b"Keep-Alive: x", b"WWW-Auth: y")
    assert answer_to_client(head, b"GET", True, b"close") == (
        b"HTTP/1.1 403 No\r\n" + framing + b"\r\nWWW-Auth: y\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize("line", [b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_101_has_no_length(line):
    head = response_head(b"HTTP/1.1 101 Switching", b"Upgrade: websocket", b"Connection: upgrade", line, b"X: 1")
    assert switch_to_client(head) == (
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX: 1\r\n\r\n"
    )
