"""What a token's claims must say, and what the backend gets of them."""

import pytest

from tests.support.tokens import hs256

from .jwts import at, jwt, let_in, refusal

NOW = 1_800_000_000.0


@pytest.mark.parametrize(("ago", "reason"), [(-1, None), (29, None), (30, "expired"), (3600, "expired")])
def test_expiry(ago, reason):
    method = jwt(clock=at(NOW))
    token = hs256({"exp": NOW - ago})
    for _ in range(2):  # as it is verified, and as it is known
        if reason:
            assert reason in refusal(method, token).reason
        else:
            assert let_in(method, token)


def test_a_known_token_expires():
    now = [NOW]
    method = jwt(clock=lambda: now[0])
    token = hs256({"exp": NOW + 10, "sub": "ann"})
    assert let_in(method, token).expiry.at_unix == NOW + 10
    now[0] += 20
    assert let_in(method, token).expiry.at_unix == NOW + 40  # let in by the leeway, which its tunnel gets, too
    now[0] += 20
    assert refusal(method, token).reason == "the token has expired"
    now[0] = NOW - 60
    assert let_in(method, token).user == "ann"


@pytest.mark.parametrize(("ahead", "accepted"), [(0, True), (30, True), (31, False)])
def test_not_before(ahead, accepted):
    token = hs256({"nbf": NOW + ahead, "sub": "ann"})
    if accepted:
        assert let_in(jwt(clock=at(NOW)), token)
    else:
        assert refusal(jwt(clock=at(NOW)), token).reason == "the token is not valid yet"


def test_without_expiry():
    assert let_in(jwt(), hs256({"sub": "ann"})).expiry is None
    assert let_in(jwt(expiry_code=None), hs256()).expiry is None


@pytest.mark.parametrize(
    ("settings_", "claims", "status"),
    [
        ({"issuer": ("a", "b")}, {"iss": "b"}, None),
        ({"issuer": ("a", "b")}, {"iss": "c"}, 401),
        ({"issuer": ("a", "b")}, {"iss": ["a"]}, 401),
        ({"issuer": ("a",)}, {}, 401),
        ({"audience": ("chat",)}, {"aud": "chat"}, None),
        ({"audience": ("chat",)}, {"aud": ["x", "chat"]}, None),
        ({"audience": ("chat",)}, {"aud": ["x", {}]}, 401),
        ({"audience": ("chat",)}, {"aud": "chat "}, 401),
        ({"audience": ("chat",)}, {}, 401),
        ({"audience": ()}, {"aud": "anything"}, None),
        ({"require": (("scope", '"chat"'),)}, {"scope": "chat"}, None),
        ({"require": (("scope", '"chat"'),)}, {"scope": "read chat write"}, None),
        ({"require": (("scope", '"chat"'),)}, {"scope": ["read", "chat"]}, None),
        ({"require": (("scope", '"chat"'),)}, {"scope": "chats"}, 403),
        ({"require": (("scope", '"chat"'),)}, {"scope": ["read chat"]}, 403),
        ({"require": (("scope", '"chat"'),)}, {}, 403),
        ({"require": (("scope", '["chat", "admin"]'),)}, {"scope": "admin"}, None),
        ({"require": (("level", "[2, 3]"),)}, {"level": 3}, None),
        ({"require": (("level", "1"),)}, {"level": True}, 403),
        ({"require": (("ok", "true"),)}, {"ok": True}, None),
        ({"require": (("ok", "true"),)}, {"ok": 1}, 403),
        ({"require": (("ok", "true"),)}, {"ok": "true"}, 403),
        ({"require": (("a", '"x"'), ("b", '"y"'))}, {"a": "x"}, 403),
        ({"require": (("a", '"x"'),)}, {"a": {"x": 1}}, 403),
    ],
)
def test_claims(settings_, claims, status):
    method = jwt(**settings_)
    for _ in range(2):
        if status is None:
            assert let_in(method, hs256(**claims))
        else:
            refused = refusal(method, hs256(**claims))
            assert (refused.status, refused.result) == (status, "forbidden")


def test_an_expired_token_says_so_whatever_else_it_lacks():
    method = jwt(require=(("scope", '"chat"'),), clock=at(NOW))
    assert refusal(method, hs256({"exp": 1})).reason == "the token has expired"


# --- what the backend gets ------------------------------------------------------------------------------------------


def lines(claims, forward=(("sub", "X-User"), ("roles", "X-Roles"))):
    granted = let_in(jwt(forward=forward), hs256(claims))
    assert granted.without == {field.lower().encode() for _, field in forward}
    return granted.fields


@pytest.mark.parametrize(
    ("claims", "fields"),
    [
        ({"sub": "ann"}, b"X-User: ann\r\n"),
        ({"sub": "Jürgen Ω"}, "X-User: Jürgen Ω\r\n".encode()),
        ({"sub": 5, "roles": ["a", "ü"]}, b'X-User: 5\r\nX-Roles: ["a","\\u00fc"]\r\n'),
        ({"sub": True, "roles": {"a": 1.5}}, b'X-User: true\r\nX-Roles: {"a":1.5}\r\n'),
        ({"sub": None, "roles": ""}, b""),
        ({"other": "x"}, b""),
        ({"sub": '"; drop'}, b'X-User: "; drop\r\n'),
    ],
)
def test_claims_to_fields(claims, fields):
    assert lines(claims) == fields


@pytest.mark.parametrize(
    "text", ["a\r\nX-Admin: 1", "a\n", "a\0", "\t", " ann", "ann ", "a\x7f", "a\u2028b", "\ud800", "a\u0085b", "\xa0a"]
)
def test_text_that_no_field_can_carry(text):
    refused = refusal(jwt(forward=(("sub", "X-User"),)), hs256({"sub": text}))
    assert (refused.status, refused.reason) == (401, "the token's sub does not fit into a header field")


def test_a_subject_in_the_log():
    assert let_in(jwt(), hs256({"sub": "x" * 500})).user == "x" * 200
    assert let_in(jwt(), hs256({"sub": 5})).user is None
