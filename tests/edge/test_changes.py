"""Fields that a route sets and removes, in what a backend and a client are sent."""

import pytest

from gateway.edge.access.granted import Granted
from gateway.edge.forwarding import answer_to_client, switch_to_client
from gateway.edge.known_answers import KnownAnswer
from gateway.edge.own_answers import further_fields, own_answer
from gateway.edge.refused import Refused
from gateway.edge.to_backend import request_to_backend, upgrade_to_backend

from ..protocol.heads import response_head
from .requests import examined, handshake, in_force, request_head

HEADERS = {
    "set": {"X-Env": "prod", "Host": "app.internal:81", "Authorization": "Basic Z3c6cHc=", "X-Text": "süß"},
    "remove": ["Cookie", "X-Secret", "Sec-WebSocket-Extensions"],
}


def sent(lines, *, headers=HEADERS, granted=None, underscores="pass", upgrade=False, times=1):
    """What a backend gets, but for the gateway's own fields."""
    config = in_force({"headers": headers} if headers else {}, underscores=underscores)
    head = handshake(more=tuple(lines)) if upgrade else request_head(*lines)
    for _ in range(times):
        request = examined(head, config=config)
        request.granted = granted
        made = (upgrade_to_backend if upgrade else request_to_backend)(request, config)
    found = made.decode().split("\r\n")
    assert found[-2:] == ["", ""]
    own = found.index(next(line for line in found if line.startswith("X-Forwarded-For: ")))
    return found[:own], found[own:-2]


CLIENTS = (
    b"x-env: mine",
    b"X_Env: mine",
    b"x.env: mine",
    b"X-Env: again",
    b"Authorization: Bearer x",
    b"Cookie: a",
    b"cookie: b",
    b"X_SECRET: 1",
    b"X!SECRET: 1",
    b"X-Kept: 1",
    b"X_Kept: 2",
)
SET = ["X-Env: prod", "Authorization: Basic Z3c6cHc=", "X-Text: süß"]


@pytest.mark.parametrize("times", [1, 2])
def test_fields_of_a_plain_request(times):
    lines, own = sent((b"GET /a HTTP/1.1", b"X-First: 0", b"Host: a:80", *CLIENTS), times=times)
    assert lines == ["GET /a HTTP/1.1", "Host: app.internal:81", "X-First: 0", "X-Kept: 1", "X_Kept: 2", *SET]
    assert own[2] == "X-Forwarded-Host: a:80"


def test_fields_of_a_handshake():
    lines, own = sent((*CLIENTS, b"Sec-WebSocket-Extensions: permessage-deflate"), upgrade=True)
    assert lines == [
        "GET /ws HTTP/1.1",
        "Host: app.internal:81",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: Uc9l9TMkWGbHFD2qnFHltg==",
        "Sec-WebSocket-Version: 13",
        "X-Kept: 1",
        "X_Kept: 2",
        *SET,
    ]
    assert own[2] == "X-Forwarded-Host: chat.example.com"


def test_a_request_of_http10_has_one_host():
    assert sent((b"GET / HTTP/1.0",))[0] == ["GET / HTTP/1.1", "Host: app.internal:81", *SET]
    other = {"remove": ["Cookie"]}
    assert sent((b"GET / HTTP/1.0", b"Cookie: a"), headers=other)[0] == ["GET / HTTP/1.1", "Host: chat"]


def test_a_client_cannot_have_a_set_field_removed():
    lines, _ = sent((b"GET / HTTP/1.1", b"Host: a", b"Connection: X-Env, X-Text"))
    assert lines == ["GET / HTTP/1.1", "Host: app.internal:81", *SET]


def test_a_name_of_the_configuration_with_other_characters():
    """It is in another spelling what a client says in the usual one."""
    lines, _ = sent((b"GET / HTTP/1.1", b"Host: a", b"X-Env: mine"), headers={"set": {"X.Env": "prod"}})
    assert lines == ["GET / HTTP/1.1", "Host: a", "X.Env: prod"]


GRANTED = Granted(
    user="ann",
    fields=b"X-User: ann\r\n",
    without=frozenset((b"x-user", b"authorization")),
    replaced={b"cookie": b"b=2", b"x-env": b"theirs"},
    target=b"/t?q",
)


@pytest.mark.parametrize("upgrade", [False, True])
def test_what_credentials_change_is_changed_too(upgrade):
    users = (b"X-User: eve", b"X_User: eve", b"X~User: eve")
    fields = (b"Cookie: a=1; b=2", *users, b"Authorization: Bearer x", b"X-Env: 1")
    lines = fields if upgrade else (b"GET /a HTTP/1.1", b"Host: a", *fields)
    found, own = sent(
        lines, headers={"set": {"X-Env": "prod", "Authorization": "Basic x"}}, granted=GRANTED, upgrade=upgrade
    )
    handshakes = 4 if upgrade else 0
    assert found[0] == "GET /t?q HTTP/1.1"
    assert found[2 + handshakes :] == ["Cookie: b=2", "X-Env: prod", "Authorization: Basic x"]
    assert own[-1] == "X-User: ann"


def test_routes_without_changes_share_what_is_known_of_a_head():
    config = in_force({"match": {"path": "/a"}, "headers": {"remove": ["Cookie"]}}, {})
    head = request_head(b"GET /a HTTP/1.1", b"Host: x", b"Cookie: 1")
    assert b"Cookie" not in request_to_backend(examined(head, config=config), config)
    head = head.with_line(b"GET /b HTTP/1.1" + head.raw[15:], b"GET", b"/b")
    assert b"Cookie" in request_to_backend(examined(head, config=config), config)


# --- toward the client ------------------------------------------------------------------------------------------------

ANSWER_HEADERS = {"set": {"X-Frame-Options": "DENY", "Server": "gw"}, "remove": ["X-Powered-By", "Set-Cookie"]}
ANSWER_FIELDS = (b"server: php", b"X-Powered-By: php", b"Set-Cookie: a", b"Set-Cookie: b", b"X-Kept: 1")


def changes_of(answer_headers):
    return in_force({"answer_headers": answer_headers}).routes.routes[0].answer_changes


def test_fields_of_an_answer():
    head = response_head(b"HTTP/1.1 200 OK", b"Content-Length: 2", *ANSWER_FIELDS)
    expected = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Kept: 1\r\n%bX-Frame-Options: DENY\r\nServer: gw\r\n\r\n"
    changes = changes_of(ANSWER_HEADERS)
    assert answer_to_client(head, b"GET", True, b"", changes) == expected % b""
    known = KnownAnswer.of(head, b"GET")
    for _ in range(2):
        assert known.head_for(True, True, changes) == expected % b""
        assert known.head_for(True, False, changes) == expected % b"Connection: close\r\n"
        assert known.head_for(True, True) == head.raw
        assert known.head_for(True, True, changes_of({"remove": ["Server"]})).count(b"php") == 1


def test_configurations_that_come_and_go_take_no_more_memory():
    known = KnownAnswer.of(response_head(b"HTTP/1.1 204 No Content"), b"GET")
    for number in range(100):
        assert b"X: %d\r\n" % number in known.head_for(True, True, changes_of({"set": {"X": str(number)}}))
    assert len(known._made) <= 32


def test_fields_of_a_switch():
    fields = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: x", *ANSWER_FIELDS)
    head = response_head(b"HTTP/1.1 101 Switching Protocols", *fields)
    assert switch_to_client(head, changes_of(ANSWER_HEADERS)).split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        *fields[:3],
        b"X-Kept: 1",
        b"X-Frame-Options: DENY",
        b"Server: gw",
        b"",
        b"",
    ]


def test_refusals_get_what_is_set_unless_they_say_it_themselves():
    headers = {"set": {"X": "1", "Content-Type": "text/html", "WWW-Authenticate": "Basic"}}
    (route,) = in_force({"answer_headers": headers}).routes.routes
    given = [(b"www-authenticate", b"Bearer")]
    assert further_fields(Refused(401, "no", "forbidden", route, given)) == [*given, (b"X", b"1")]
    assert further_fields(Refused(400, "no", "bad_request", None, given)) == given


def test_a_rewritten_redirect():
    rewrite = {"strip_prefix": "/old", "add_prefix": "/new"}
    config = in_force({"redirect": {"to": "https://{host}{uri}"}, "rewrite": rewrite})
    request = examined(request_head(b"GET /%6fld/x?q HTTP/1.1", b"Host: A.example:80"), config=config)
    assert request.route.answer is not None
    answer = own_answer(request, request.route.answer)
    assert (answer.status, answer.fields[0]) == (302, (b"Location", b"https://a.example/new/x?q"))
