"""``sticky``: a signed cookie names the backend."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.settings import Sticky as StickySettings
from gateway.routing.balancing.sticky import Sticky

from ...protocol.heads import request_head
from ..tables import routes_of
from .backends import targets

SECRET = b"a secret of sixteen bytes or more"
LINE = re.compile(rb"Set-Cookie: gateway_backend=([A-Za-z0-9_-]{32}); Path=/; HttpOnly; SameSite=Lax\r\n")
ABC = targets(1, 1, 1)
A, B, C = ABC


class Clock:
    seconds = 1_800_000_000.0

    def __call__(self):
        return self.seconds


def sticky(among=ABC, upstream="chat", secret=SECRET, ttl=None, own=None, clock=None, candidates=None):
    made = Sticky(upstream, among, StickySettings("gateway_backend", own, ttl), secret, clock or Clock())
    made.use(among if candidates is None else candidates)
    return made


def value_for(made, target=B):
    return re.search(rb"=([^;]+);", made.set_cookie(b"", target, False))[1]


def test_a_client_comes_back_to_its_backend():
    made = sticky()
    for target in ABC:
        value = value_for(made, target)
        assert made.pick(value) is target
        assert made.pick(value.decode()) is target
        assert made.set_cookie(value, target, False) == b""


def test_without_a_cookie_it_has_no_answer():
    assert [sticky().pick(key) for key in (None, b"", "")] == [None, None, None]


def test_a_cookie_of_the_same_name_that_is_not_ours_hides_nothing():
    """It was set for a narrower path, so that browsers send it first; or it comes in a field of its own."""
    made = sticky()
    ours = value_for(made, C)
    for fields in (
        [b"Cookie: gateway_backend=no; gateway_backend=%b" % ours],
        [b"Cookie: gateway_backend=%b; gateway_backend=%b" % (b"A" * 32, ours)],
        [b"Cookie: a=b; gateway_backend=", b"Cookie: gateway_backend=%b; c=d" % ours],
        [b"Cookie: gateway_backend=%b; gateway_backend=no" % ours],
    ):
        assert made.cookie_of(request_head(b"GET / HTTP/1.1", b"Host: x", *fields)) == ours
    for fields, first in (([], b""), ([b"Cookie: gateway_backend=no; gateway_backend=nor"], b"no")):
        assert made.cookie_of(request_head(b"GET / HTTP/1.1", b"Host: x", *fields)) == first


def test_attributes():
    assert LINE.fullmatch(sticky().set_cookie(b"", B, False))
    secure = sticky().set_cookie(b"", B, True)
    assert secure.endswith(b"; Path=/; HttpOnly; SameSite=Lax; Secure\r\n")
    lasting = sticky(ttl=3600.0).set_cookie(b"", B, True)
    assert lasting.endswith(b"; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=3600\r\n")


def test_a_request_that_went_elsewhere_changes_the_cookie():
    made = sticky()
    assert made.pick(value_for(made, B), (B,)) is None
    line = made.set_cookie(value_for(made, B), C, False)
    assert made.pick(LINE.fullmatch(line)[1]) is C


def test_out_of_service_is_no_answer_until_it_is_back():
    made = sticky(candidates=[A, C])
    value = value_for(made, B)
    assert made.pick(value) is None
    made.use(ABC)
    assert made.pick(value) is B


def test_workers_and_machines_with_the_same_secret_understand_each_other():
    value = value_for(sticky())
    assert sticky().pick(value) is B
    fewer = targets(1, 1)[1:]
    assert sticky(fewer).pick(value) is fewer[0]
    shared = sticky(own="the secret of all machines", secret=b"one of this machine")
    assert sticky(own="the secret of all machines", secret=b"another").pick(value_for(shared)) is B


@pytest.mark.parametrize(
    "other",
    [{"secret": b"another secret"}, {"upstream": "site"}, {"own": "another secret"}, {"ttl": 60.0}],
    ids=lambda other: next(iter(other)),
)
def test_a_cookie_of_another_gateway_or_upstream_is_ignored_and_replaced(other):
    made = sticky()
    value = value_for(sticky(**other))
    assert made.pick(value) is None
    assert LINE.fullmatch(made.set_cookie(value, B, False))


def test_a_backend_that_is_gone_is_ignored_and_replaced():
    value = value_for(sticky(), C)
    made = sticky(targets(1, 1))
    assert made.pick(value) is None
    assert made.set_cookie(value, A, False) != b""


def test_it_expires_and_is_renewed_at_half_time():
    clock = Clock()
    made = sticky(ttl=100.0, clock=clock)
    value = value_for(made)
    for after, answer, renewed in ((0, B, False), (49, B, False), (51, B, True), (99, B, True), (101, None, True)):
        clock.seconds = Clock.seconds + after
        assert made.pick(value) is answer
        assert bool(made.set_cookie(value, B, False)) is renewed


def test_a_cookie_without_an_end_is_none_where_they_have_one():
    assert sticky(ttl=100.0).pick(value_for(sticky())) is None


@settings(max_examples=200)
@given(st.binary(max_size=40) | st.text(max_size=32).map(str.encode))
def test_whatever_else_is_in_a_cookie_is_no_answer(value):
    made = sticky()
    assert made.pick(value) is None
    assert LINE.fullmatch(made.set_cookie(value, B, False))


@pytest.mark.parametrize("position", range(24))
@pytest.mark.parametrize("ttl", [None, 3600.0])
def test_a_changed_byte_is_a_forgery(position, ttl):
    made = sticky(ttl=ttl)
    raw = bytearray(urlsafe_b64decode(value_for(made)))
    raw[position] ^= 1
    assert made.pick(urlsafe_b64encode(raw)) is None


def test_it_says_nothing_of_the_address():
    values = {value_for(sticky(upstream=name, secret=secret)) for name in "ab" for secret in (SECRET, b"other")}
    ids = {urlsafe_b64decode(value)[:8] for value in values}
    assert len(ids) == 4


def test_values_that_are_known_to_be_right_are_bounded():
    clock = Clock()
    made = sticky(ttl=10_000_000.0, clock=clock)
    for second in range(5000):
        clock.seconds = Clock.seconds + second
        assert made.pick(value_for(made)) is B
    assert len(made._verified) <= 4096


def test_in_an_upstream_it_comes_first_and_the_others_are_for_the_rest():
    config = {"chat": {"backends": ["a:1", "b:1", "c:1"], "balance": "sticky"}}
    chat = routes_of({}, upstreams=config, secret=SECRET).upstreams["chat"]
    assert chat.sticky is not None
    stuck = chat.targets[1]
    value = re.search(rb"=([^;]+);", chat.sticky.set_cookie(b"", stuck, False))[1]
    assert {chat.pick(value).label for _ in range(9)} == {"b:1"}
    assert {chat.pick(value, (stuck,)).label for _ in range(9)} == {"a:1", "c:1"}
    assert {chat.pick(b"forged").label for _ in range(9)} == {"a:1", "b:1", "c:1"}
