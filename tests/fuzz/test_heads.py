"""Hostile heads: a documented error or a head, never another exception, and the same however TCP cuts them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.forwarding import answer_to_client, interim_to_client, switch_to_client
from gateway.edge.refusal import refusal_bytes
from gateway.edge.refused import Refused
from gateway.edge.request import examine
from gateway.edge.to_backend import request_to_backend, upgrade_to_backend
from gateway.protocol.answers import ResponseReader
from gateway.protocol.fields import answer_lines, head_bytes
from gateway.protocol.heads import MAX_HEAD_BYTES, BadHead, BadResponse
from gateway.protocol.requests import RequestReader
from gateway.protocol.websocket import refusal_of_101

from ..edge.requests import PROXY, STRANGER, in_force
from ..protocol.heads import outcome
from ..protocol.streams import chunkings
from ..routing.tables import routes_of
from .pieces import ANSWERS, MANY, REQUESTS

CONFIG = in_force()
OTHER_GATEWAY = in_force()
OTHER_GATEWAY.loop_mark = b"gateway-other"  # to which what the first one sends is no request that has come back
STATUSES = {400, 404, 426, 431, 501, 505}
TABLES = [
    routes_of({"match": {"hosts": ["a"], "path": "/ws"}, "upgrades": ["websocket", "tcp"]}),
    routes_of({"match": {"path_regex": "^/w"}}, {"match": {"subprotocols": ["a"]}}, {}),
]


@given(st.data())
@MANY
def test_requests(data):
    request = data.draw(REQUESTS)
    whole = outcome(request)
    if whole is not None and isinstance(whole[0], int):
        assert whole[0] in STATUSES
        assert whole[1].isprintable()
    elif whole is not None:
        behind = whole[-1]
        assert request.endswith(behind)
        assert b"\0" not in request[: len(request) - len(behind)]
    assert outcome(*data.draw(chunkings(request))) == whole


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_large_requests(data):
    """Too large and malformed too: which of the two is found first depends on the pieces, and nothing else does."""
    request = data.draw(REQUESTS) + b"a" * data.draw(st.integers(MAX_HEAD_BYTES - 300, MAX_HEAD_BYTES * 2))
    for made in (outcome(request), outcome(*data.draw(chunkings(request)))):
        assert made is None or made[0] in STATUSES or len(made) == 5


def config_with(routes):
    """What is in force in a worker with these routes."""
    CONFIG.routes = routes
    return CONFIG


def examined(data, peer, routes):
    """What a request asks for, or why it is refused; None where it is not even a head."""
    try:
        head = RequestReader().feed(data)
        return None if head is None else examine(head, peer, config_with(routes), 1)
    except BadHead:
        return None
    except Refused as refused:
        return refused


@given(REQUESTS, st.sampled_from([STRANGER, PROXY]), st.sampled_from(TABLES))
@MANY
def test_examined(data, peer, routes):
    made = examined(data, peer, routes)
    if isinstance(made, Refused):
        assert made.status in STATUSES
        answer, _, body = refusal_bytes(made.status, made.reason).partition(b"\r\n\r\n")
        assert answer.count(b"\r\n") in (4, 6)
        assert f"Content-Length: {len(body)}".encode() in answer
    elif made is not None:
        assert made.upgrade in (None, b"websocket", b"tcp")
        assert (made.key is not None) == (made.upgrade == b"websocket")
        assert made.path.isascii()
        assert made.host.isascii()
        check_forwarded(made, peer, routes)


def check_forwarded(request, peer, routes):
    """A backend that reads as strictly as the gateway does sees the one request that was examined."""
    reader = RequestReader()
    write = request_to_backend if request.upgrade is None else upgrade_to_backend
    again = reader.feed(write(request, CONFIG))
    assert again is not None
    assert reader.received[again.size :] == b""
    assert (again.method, again.target) == (request.head.method, request.target)
    if b"host" not in request.head.first:
        return  # one of HTTP/1.0, which is given one
    OTHER_GATEWAY.routes = routes
    seen = examine(again, peer, OTHER_GATEWAY, 1)
    assert (seen.upgrade, seen.key, seen.route) == (request.upgrade, request.key, request.route)


def answers(chunks):
    """What a client is sent of a backend's answers; and the bytes behind them, or whether a refusal is printable."""
    reader = ResponseReader()
    found = []
    for i, chunk in enumerate(chunks):
        try:
            head = reader.feed(chunk)
            while head is not None:
                assert 100 <= head.status <= 999
                found.append(switch_to_client(head))
                found.append(interim_to_client(head))
                found += [
                    answer_to_client(head, b"GET", http11, option)
                    for http11 in (True, False)
                    for option in (b"", b"close")
                ]
                found.append(refusal_of_101(head, b"websocket", b"Uc9l9TMkWGbHFD2qnFHltg=="))
                if head.status == 101 or head.status >= 200:
                    return found, reader.received + b"".join(chunks[i + 1 :])
                head = reader.feed(b"")
        except BadResponse as error:
            return found, str(error).isprintable()
    return found, None


@given(st.data())
@MANY
def test_answers(data):
    answer = data.draw(ANSWERS)
    whole = answers([answer])
    assert whole[1] is not False
    assert answers(data.draw(chunkings(answer))) == whole
    for made in whole[0]:
        if isinstance(made, bytes):
            assert made.endswith(b"\r\n\r\n")
            assert made.count(b"\r\n\r\n") == 1
            assert not {0, 0x0B, 0x1B} & set(made)


@given(ANSWERS, st.sampled_from([b"GET", b"HEAD"]))
@MANY
def test_an_answer_is_passed_on_as_it_was_understood(answer, method):
    """Whatever ends its lines, what is made of it is one head in the strict form, with the same fields."""
    try:
        head = ResponseReader().feed(answer)
    except BadResponse:
        return
    if head is None:
        return
    assert head.raw.count(b"\n") == head.raw.count(b"\r") == head.raw.count(b"\r\n") == head.count + 2
    again = ResponseReader().feed(head.raw)
    assert again is not None
    assert (again.status, again.reason, again.fields) == (head.status, head.reason, head.fields)
    lines = answer_lines(head, method, True)
    passed = ResponseReader().feed(head_bytes(b"HTTP/1.1 200 OK", lines))
    assert passed is not None
    assert passed.lines(()) == lines
