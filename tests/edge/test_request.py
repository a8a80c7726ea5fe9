"""What a request asks for: its route, the protocol to upgrade to; or why it is refused, and what the client is told."""

import http.client
import io
import time
from email.utils import parsedate_to_datetime

import pytest

from gateway.edge.refusal import refusal_bytes
from gateway.edge.refused import Refused
from gateway.protocol.heads import RequestHead

from ..routing.tables import routes_of
from .requests import PROXY, STRANGER, examined, handshake, refusal, request_head

KEY = b"Uc9l9TMkWGbHFD2qnFHltg=="
GET = b"GET /ws HTTP/1.1"
HOST = b"Host: a"


def test_the_handshake_of_the_issue():
    request = examined(handshake())
    assert (request.upgrade, request.key) == (b"websocket", KEY)
    assert (request.host, request.path, request.route.name) == ("chat.example.com", "/ws", "r0")


def test_a_plain_request():
    request = examined(request_head(GET, HOST))
    assert (request.upgrade, request.key) == (None, None)


def test_a_target_and_a_host_that_name_different_hosts_are_refused():
    # RFC 9112 section 3.2.2: a server that looks at Host would serve another site than one that looks at the target.
    with pytest.raises(Refused) as caught:
        examined(request_head(b"GET http://other.example.com/x HTTP/1.1", b"Host: chat.example.com"))
    assert (caught.value.status, caught.value.result) == (400, "bad_request")


def test_no_host_in_http10():
    assert examined(request_head(b"GET / HTTP/1.0")).host == ""


@pytest.mark.parametrize(
    ("target", "route"),
    [
        (b"/ws", "ws"),
        (b"/ws/x?y=/other", "ws"),
        (b"/%77s/", "ws"),
        (b"/other/../ws", "ws"),
        (b"/other/%2e%2e/ws", "ws"),
        (b"http://a/ws", "ws"),
        (b"//ws", "ws"),
        (b"http://a:80/ws", "ws"),
        (b"http://a?/ws", "rest"),
        (b"/ws/../other", "rest"),
        (b"/wsx", "rest"),
        (b"/other?/ws", "rest"),
        (b"*", "rest"),
    ],
)
def test_routes_see_the_normal_path(target, route):
    routes = routes_of({"name": "ws", "match": {"path": "/ws"}}, {"name": "rest"})
    request = examined(request_head(b"OPTIONS " + target + b" HTTP/1.1", HOST), routes=routes)
    assert request.route.name == route
    assert request.head.target == target


def test_routes_see_subprotocols_over_several_lines():
    routes = routes_of({"match": {"subprotocols": ["v10.stomp"]}})
    more = (b"Sec-WebSocket-Protocol: mqtt, x", b"sec-websocket-protocol: V10.STOMP , v10.stomp")
    assert examined(handshake(more=more), routes=routes).route.name == "r0"
    assert refusal(handshake(more=more[:1]), routes=routes).result == "no_route"


def test_no_route():
    refused = refusal(request_head(b"GET /x%0ay HTTP/1.1", b"Host: B:1"), routes=routes_of({"match": {"hosts": ["a"]}}))
    assert (refused.status, refused.result, refused.route) == (404, "no_route", None)
    assert "'b'" in refused.reason
    assert "'/x%0Ay'" in refused.reason


@pytest.mark.parametrize(
    ("target", "method"),
    [
        (b"/%zz", b"GET"),
        (b"/a%", b"GET"),
        (b"a:443", b"CONNECT"),
        (b"ws://a/", b"GET"),
        (b"/ws#/../admin", b"GET"),
        (b"/ws/..%2fadmin", b"GET"),
        (b"/ws/..;/admin", b"GET"),
        (b"*", b"GET"),
        (b"http://u@a/", b"GET"),
        (b"/", b"CONNECT"),
    ],
)
def test_bad_targets(target, method):
    refused = refusal(request_head(method + b" " + target + b" HTTP/1.1", HOST))
    assert (refused.status, refused.result) == (400, "bad_request")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (handshake(method=b"POST"), 400),
        (handshake(without=b"Sec-WebSocket-Key"), 400),
        (handshake(without=b"Sec-WebSocket-Version"), 426),
        (handshake(more=(b"Content-Length: 5",)), 400),
        (handshake(more=(b"Transfer-Encoding: chunked",)), 400),
    ],
)
def test_bad_handshakes(head, status):
    refused = refusal(head)
    assert (refused.status, refused.result) == (status, "bad_request")
    assert refused.route is not None
    assert refused.route.name == "r0"


def asking(*lines, upgrades=("websocket",), start=GET):
    """What becomes of a request with these fields, where a route lists these upgrades."""
    return examined(request_head(start, HOST, *lines), routes=routes_of({"upgrades": list(upgrades)})).upgrade


CONNECTION = b"Connection: Upgrade"
WEBSOCKET = (b"Sec-WebSocket-Key: " + KEY, b"Sec-WebSocket-Version: 13")


def test_an_upgrade_that_the_route_does_not_list_is_ignored():
    assert asking(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMA") is None
    assert asking(b"Upgrade: tcp", CONNECTION) is None
    assert asking(b"Upgrade: websocket", CONNECTION, upgrades=("tcp",)) is None
    # With a body as well: a client may ask for h2c in any request.
    assert asking(b"Upgrade: h2c", CONNECTION, b"Content-Length: 5", start=b"POST /ws HTTP/1.1") is None


def test_the_first_protocol_that_the_route_lists():
    assert asking(b"Upgrade: h2c, websocket", CONNECTION, *WEBSOCKET) == b"websocket"
    assert asking(b"Upgrade: h2c", b"Upgrade: WebSocket", CONNECTION, *WEBSOCKET) == b"websocket"
    assert asking(b"Upgrade: TCP, websocket", CONNECTION, *WEBSOCKET, upgrades=("websocket", "tcp")) == b"tcp"


def test_another_upgrade_has_its_own_method_and_no_body():
    start = b"POST /exec HTTP/1.1"
    assert asking(b"Upgrade: tcp", CONNECTION, b"Content-Length: 0", upgrades=("tcp",), start=start) == b"tcp"
    head = request_head(start, HOST, b"Upgrade: tcp", CONNECTION, b"Content-Length: 2")
    refused = refusal(head, routes=routes_of({"upgrades": ["tcp"]}))
    assert (refused.status, refused.result) == (400, "bad_request")


def test_http10_is_never_upgraded():
    assert examined(request_head(b"GET /ws HTTP/1.0", b"Upgrade: websocket", CONNECTION)).upgrade is None


# --- stripped upgrades ------------------------------------------------------------------------------------------------

STRIPPED = {
    "no Upgrade": handshake(without=b"Upgrade"),
    "no Connection": handshake(without=b"Connection"),
    "Connection: close": handshake(without=b"Connection", more=(b"Connection: close",)),
    "neither": request_head(GET, HOST, b"Sec-WebSocket-Key: " + KEY),
    "HTTP/1.0": handshake(version=b"1.0"),
}


@pytest.mark.parametrize("head", STRIPPED.values(), ids=STRIPPED)
def test_stripped(head):
    refused = refusal(head)
    assert (refused.status, refused.result) == (426, "stripped_upgrade")
    assert refused.route is not None


def answer(data):
    """The one answer that ``data`` is, as a client's library reads it."""

    class Socket:
        def makefile(self, mode):
            return io.BytesIO(data)

    with http.client.HTTPResponse(Socket()) as response:
        response.begin()
        body = response.read()
        assert len(data) == data.index(b"\r\n\r\n") + 4 + len(body)
        return response.status, sorted(response.getheaders()), body.decode()


HOSTILE = [
    b"1.1 proxy",
    b"x\r\nSet-Cookie: a=b",
    b"x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"<script>alert(1)</script>",
    b"caf\xc3\xa9 \xff\x9b2J",
    b"%0d%0aX: y",
    b"a" * 9000,
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", [b"Via", b"X-Forwarded-For", b"Forwarded"])
def test_a_hostile_proxys_name_changes_nothing_but_the_text(name, value):
    usual_head = handshake(without=b"Upgrade")
    # The reader lets no line end through; this must not depend on it.
    head = RequestHead([*usual_head.fields, (name, value)])
    head.method, head.target = usual_head.method, usual_head.target
    refused = refusal(head)
    status, fields, body = answer(refusal_bytes(refused.status, refused.reason))
    assert status == 426
    plain = refusal(handshake(without=b"Upgrade"))
    usual = answer(refusal_bytes(plain.status, plain.reason))[1]
    varying = ("Content-Length", "Date")
    assert [field for field in fields if field[0] not in varying] == [
        field for field in usual if field[0] not in varying
    ]
    assert body.startswith("426 Upgrade Required: a WebSocket handshake")
    assert len(body) < 1000
    assert f"{name.decode()}: {value.decode('latin-1')[:200]}" in body


def test_an_answer_has_a_date():
    before = int(time.time())
    (date,) = [value for name, value in answer(refusal_bytes(404, "x"))[1] if name == "Date"]
    assert before <= parsedate_to_datetime(date).timestamp() <= time.time()
    _, fields, _ = answer(refusal_bytes(403, "", further=[(b"date", b"of the auth server")], body=b""))
    assert [value for name, value in fields if name.lower() == "date"] == ["of the auth server"]


def test_an_answer_of_426_says_what_is_spoken():
    _, fields, _ = answer(refusal_bytes(426, "x"))
    assert ("Sec-WebSocket-Version", "13") in fields
    assert ("Upgrade", "websocket") in fields
    assert ("Connection", "close, Upgrade") in fields


@pytest.mark.parametrize("status", [400, 404, 408, 431, 502, 503, 504, 505])
def test_any_other_answer(status):
    code, fields, body = answer(refusal_bytes(status, "the reason"))
    assert code == status
    assert ("Connection", "close") in fields
    assert ("Content-Type", "text/plain; charset=utf-8") in fields
    assert not {"Upgrade", "Sec-WebSocket-Version"} & {name for name, _ in fields}
    assert "the reason" in body


# --- X-Request-Id -----------------------------------------------------------------------------------------------------


def request_id(value, peer):
    return examined(request_head(GET, HOST, b"X-Request-Id: " + value), peer).request_id


def test_a_trusted_proxys_request_id():
    assert request_id(b"abc-123", PROXY) == "abc-123"
    assert request_id(b"a" * 128, PROXY) == "a" * 128


@pytest.mark.parametrize(
    ("value", "peer"), [(b"abc", STRANGER), (b"", PROXY), (b"a" * 129, PROXY), (b"caf\xe9", PROXY), (b"a\tb", PROXY)]
)
def test_an_id_of_the_gateways_own(value, peer):
    made = {request_id(value, peer), request_id(value, peer)}
    assert len(made) == 2
    assert all(len(found) == 32 and int(found, 16) >= 0 for found in made)
