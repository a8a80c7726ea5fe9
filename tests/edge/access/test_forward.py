"""Forward auth without a server: what is asked, what an answer means, what is cached."""

import asyncio
import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.settings import ForwardAuth
from gateway.edge.access import auth_server, forward
from gateway.edge.access.asked import asked_fields
from gateway.edge.access.auth_server import Answer
from gateway.edge.access.credentials import Credentials
from gateway.edge.access.forward import MAX_CACHED_BYTES, Forward
from gateway.edge.access.granted import Granted
from gateway.edge.access.services import Services
from gateway.edge.refused import Refused
from tests.support.certificates import Authority

from ..requests import PROXY, SERVICES, STRANGER, examined, handshake, in_force, request_head

OK = Answer(200, [(b"X-User", b"ann"), (b"x-group", b"a"), (b"X-Group", b"b"), (b"Set-Cookie", b"c")], None)
SETTINGS = ForwardAuth("http://127.0.0.1:9/check", 2.0, ("X-Group", "X-User"), None, None)


class Server:
    """Answers at once, which the real one never does."""

    def __init__(self, answer=OK):
        self.answer = answer
        self.asked = []
        self.warned = []
        self.room = True
        self.warn = self.warned.append

    def ask(self, fields, done):
        self.asked.append(dict(fields))
        done(self.answer)
        return lambda: None

    def has_room(self):
        return self.room


class Method(Forward):
    """Forward auth that asks ``server``."""

    def __init__(self, server, **changes):
        self.now = 1000.0
        super().__init__(SETTINGS._replace(**changes), SERVICES, lambda: self.now)
        self._server = server

    def verdict(self, request):
        answer = self.check(request)
        if isinstance(answer, Granted):
            return answer
        verdicts = []
        answer(verdicts.append)
        (found,) = verdicts
        return found


def plain(*fields, line=b"GET /x?y HTTP/1.1", peer=STRANGER):
    return examined(request_head(line, b"Host: a.test", *fields), peer)


# --- what is asked ----------------------------------------------------------------------------------------------------


def asked(request):
    fields = asked_fields(request, b"gateway-1")
    return {name: [value for other, value in fields if other == name] for name, _ in fields}


def test_a_stranger_describes_nothing():
    found = asked(plain(b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Server: x"))
    assert found == {
        "X-Forwarded-Method": ["GET"],
        "X-Forwarded-Uri": ["/x?y"],
        "X-Forwarded-Host": ["a.test"],
        "X-Forwarded-Proto": ["http"],
        "X-Forwarded-For": ["192.0.2.7"],
        "Cdn-Loop": ["gateway-1"],
    }


def test_behind_a_trusted_proxy():
    """The client is who the proxy says, one address; method and target are the request's."""
    found = asked(
        plain(
            *(b"X-Forwarded-For: 1.1.1.1, 192.0.2.9, 10.4.4.4", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: b"),
            *(b"X-Forwarded-Uri: /evil", b"X-Forwarded-Method: PUT"),
            peer=PROXY,
        )
    )
    assert found["X-Forwarded-For"] == ["192.0.2.9"]
    assert found["X-Forwarded-Proto"] == ["https"]
    assert found["X-Forwarded-Host"] == ["b"]
    assert (found["X-Forwarded-Uri"], found["X-Forwarded-Method"]) == (["/x?y"], ["GET"])


def test_a_field_in_two_spellings_keeps_both_values():
    assert asked(plain(b"x-TOKEN: 1", b"X-Token: 2"))["X-Token"] == ["1", "2"]


def test_a_handshake_asks_without_its_upgrade():
    found = asked(examined(handshake(without=b"Sec-WebSocket-P", more=(b"Sec-WebSocket-Protocol: token",))))
    assert not {"Upgrade", "Connection", "Sec-Websocket-Key", "Sec-Websocket-Version"} & found.keys()
    assert found["Sec-Websocket-Protocol"] == ["token"]


@pytest.mark.parametrize("value", [b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"a\x01b", b"\x7f"])
def test_what_would_not_arrive_as_it_is_is_refused(value):
    request = plain()
    for head in ([(b"Host", b"a"), (b"X-A", value)], [(b"Host", value)]):
        request.head = type(request.head)(head)
        request.head.method = b"GET"
        with pytest.raises(Refused) as refused:
            asked_fields(request, b"")
        assert refused.value.status == 400


@given(st.lists(st.tuples(st.sampled_from([b"x-a", b"X-A", b"Cookie", b"cookie", b"X_A"]), st.binary(max_size=8))))
def test_any_fields(fields):
    """Each value that the backend gets is asked about, in order, or the request is refused."""
    request = plain()
    request.head = type(request.head)([(b"Host", b"a"), *fields])
    request.head.method = b"GET"
    try:
        found = asked_fields(request, b"")
    except Refused:
        return
    for name in (b"x-a", b"cookie"):
        values = [value.strip(b" \t") for given, value in fields if given.lower() == name]
        assert [value.encode() for given, value in found if given.lower() == name.decode()] == values
    assert not any("_" in name for name, _ in found)


# --- what an answer means ---------------------------------------------------------------------------------------------


def test_an_answer_that_lets_in():
    server = Server()
    request = plain()
    granted = Method(server).verdict(request)
    assert granted == Granted("ann", b"X-Group: a\r\nX-Group: b\r\nX-User: ann\r\n", frozenset((b"x-user", b"x-group")))
    assert server.asked[0]["X-Request-Id"] == request.request_id


def test_an_answer_without_the_fields():
    granted = Method(Server(Answer(204, [], None))).verdict(plain())
    assert granted == Granted(None, b"", frozenset((b"x-user", b"x-group")))


@pytest.mark.parametrize(
    ("copied", "user"),
    [
        (("Authorization",), None),
        (("X-Group",), None),
        (("Authorization", "Remote-User"), "bob"),
        (("X-Auth-Username", "Remote-User"), "bob"),
        (("X-User", "Remote-User"), "ann"),
    ],
)
def test_whom_the_log_names(copied, user):
    """The first copied field with "user" in its name that the answer has: others may hold secrets."""
    fields = [*OK.fields, (b"Authorization", b"Bearer secret"), (b"Remote-User", b"bob"), (b"X-Auth-Username", b"")]
    assert Method(Server(Answer(200, fields, None)), copy_fields=copied).verdict(plain()).user == user


def test_a_user_of_any_bytes():
    user = Method(Server(Answer(200, [(b"X-User", b"\xff" + b"a" * 999)], None))).verdict(plain()).user
    assert user == "\N{REPLACEMENT CHARACTER}" + "a" * 255


@pytest.mark.parametrize("field", [(b"X-User", b"a\r\nX-Admin: b"), (b"X-User", b"a\0"), (b"X User", b"a"), (b"", b"")])
@pytest.mark.parametrize("status", [200, 403])
def test_a_field_that_is_none(field, status):
    server = Server(Answer(status, [field], b""))
    refused = Method(server, cache=60.0).verdict(plain())
    assert (refused.status, refused.result) == (503, "unavailable")
    assert server.warned == ["its answer has a malformed header field"]


def test_no_answer():
    refused = Method(Server(None), cache=60.0).verdict(plain())
    assert (refused.status, refused.result, refused.body) == (503, "unavailable", None)


@pytest.mark.parametrize(("status", "result"), [(302, "forbidden"), (401, "forbidden"), (500, "unavailable")])
def test_an_answer_that_is_relayed(status, result):
    fields = [(b"Set-Cookie", b"a"), (b"Connection", b"close, X-Hop"), (b"x-hop", b"1"), (b"Set-Cookie", b"b")]
    refused = Method(Server(Answer(status, [*fields, (b"Content-Length", b"4")], b"text"))).verdict(plain())
    assert (refused.status, refused.result, refused.body) == (status, result, b"text")
    assert refused.fields == [(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")]


def test_too_many_at_once():
    server = Server()
    server.room = False
    with pytest.raises(Refused) as refused:
        Method(server).check(plain())
    assert refused.value.status == 503
    assert not server.asked


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_holds_as_long_as_it_says():
    server = Server()
    method = Method(server, cache=10.0)
    first = method.verdict(plain())
    method.now += 9.9
    assert method.verdict(plain()) is first
    method.now += 0.2
    assert method.verdict(plain()) is not first
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "other",
    [
        plain(b"Cookie: a"),
        plain(line=b"POST /x?y HTTP/1.1"),
        plain(line=b"GET /x HTTP/1.1"),
        examined(request_head(b"GET /x?y HTTP/1.1", b"Host: b.test")),
        plain(peer=type(STRANGER)("192.0.2.8", 5000, False)),
    ],
)
def test_what_differs_is_asked_about(other):
    server = Server()
    method = Method(server, cache=10.0)
    method.verdict(plain())
    method.verdict(other)
    assert len(server.asked) == 2


def test_what_is_of_one_request_only_makes_no_difference():
    server = Server()
    method = Method(server, cache=10.0)
    method.verdict(plain(peer=STRANGER))
    method.verdict(plain(peer=type(STRANGER)(STRANGER.host, 5001, False)))  # another connection, another request id
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer", [Answer(403, [], b""), None, Answer(200, [(b"X-User", b"a" * MAX_CACHED_BYTES)], None)]
)
def test_what_is_not_cached(answer):
    server = Server(answer)
    method = Method(server, cache=10.0)
    method.verdict(plain())
    method.verdict(plain())
    assert len(server.asked) == 2


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(forward, "MAX_CACHED", 100)
    method = Method(Server(), cache=3600.0)
    for number in range(500):
        method.verdict(plain(line=b"GET /%d HTTP/1.1" % number))
    assert 50 <= len(method._cached) <= 100


def test_credentials_are_not_kept_as_they_are():
    method = Method(Server(), cache=3600.0)
    method.verdict(plain(b"Authorization: Bearer s3cret"))
    assert "s3cret" not in f"{method._cached._younger} {method._cached._older}"
    other = Method(Server(), cache=3600.0)
    other.verdict(plain(b"Authorization: Bearer s3cret"))
    assert method._cached._younger.keys() != other._cached._younger.keys()


# --- where it is used -------------------------------------------------------------------------------------------------


ROUTE = {"auth": {"forward": {"url": "http://localhost:9/", "timeout": "30s"}}}


def test_a_request_may_wait_as_long_as_the_auth_server_may_take():
    (access,) = in_force(ROUTE).access.values()
    assert access.longest_wait_ns == 31_000_000_000
    (access,) = in_force({"allow": ["10.0.0.0/8"]}).access.values()
    assert access.longest_wait_ns == 0


def test_only_routes_with_forward_auth_import_aiohttp():
    program = """
import sys
from tests.edge.requests import in_force
in_force({"allow": ["10.0.0.0/8"]})
print("aiohttp" in sys.modules)
in_force({"auth": {"forward": {"url": "http://localhost:9/"}}})
print("aiohttp" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_cas_that_openssl_does_not_take():
    with pytest.raises(OSError, match="does not contain a certificate"):
        Forward(SETTINGS._replace(url="https://localhost/", ca="/ca.pem"), with_texts({"/ca.pem": "no PEM"}))


def test_cas_that_were_not_read():
    """The system's do not take their place."""
    with pytest.raises(OSError, match=r"/ca\.pem has not been read"):
        Forward(SETTINGS._replace(url="https://localhost/", ca="/ca.pem"), SERVICES)


def test_cas_that_have_become_broken(tmp_path, caplog):
    """The supervisor would not have sent them: what was there before stays in use, and is not tried again each time."""
    texts = {"/ca.pem": Authority(tmp_path).ca.read_text()}
    services = with_texts(texts)
    url = "https://localhost/"
    server = auth_server.AuthServer(SETTINGS._replace(url=url, ca="/ca.pem"), SERVICES.addresses, services.credentials)
    before = server._tls_now()
    for text in ("no PEM", "no PEM"):
        services.credentials.use({"/ca.pem": text})
        assert server._tls_now() is before
    assert caplog.text.count("auth server: /ca.pem cannot be used: ") == 1
    services.credentials.use({})
    assert server._tls_now() is before


def with_texts(texts: dict[str, str]) -> Services:
    credentials = Credentials(lambda source: None)
    credentials.use(texts)
    return dataclasses.replace(SERVICES, credentials=credentials)


async def test_sub_requests_in_flight_are_bounded(monkeypatch, caplog):
    monkeypatch.setattr(auth_server, "MAX_IN_FLIGHT", 1)
    server = auth_server.AuthServer(
        SETTINGS._replace(url="http://auth.test/check?secret=1"), SERVICES.addresses, SERVICES.credentials
    )
    assert server.has_room()
    answers = []
    cancel = server.ask([("X-A", "b")], answers.append)
    assert not server.has_room()
    assert "auth server http://auth.test/check: 1 requests are waiting for it already" in caplog.text
    cancel()
    (task,) = server._in_flight
    await asyncio.gather(task, return_exceptions=True)
    assert server.has_room()
    assert not answers
    server.close()
