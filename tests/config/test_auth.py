"""Credentials of a route: what may be written, and what is reported of what may not."""

import pytest

from gateway.config.credentials import parse_key_set, parse_users, users_in
from gateway.config.errors import BadValue
from gateway.config.settings import Auth, Basic, ForwardAuth, Jwt, Settings

from .files import complaints, config_of, route

SECRET = "s" * 32
BCRYPT = "$2y$05$" + "a" * 53
ARGON2 = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$" + "h" * 43


def auth(text):
    (found,) = config_of(route(f"auth: {text}")).routes
    return Auth.of(found.auth)


def test_jwt_by_secret():
    assert auth(f"{{jwt: {{secret: {SECRET}, algorithms: [HS256]}}}}").jwt == Jwt(
        keys=None,
        secret=SECRET,
        algorithms=("HS256",),
        issuer=(),
        audience=(),
        leeway=30.0,
        sources=(("header", "authorization"),),
        require=(),
        forward=(),
        remove_token=False,
        expiry_code=4401,
        expiry_spread=10.0,
    )


def test_jwt_as_in_the_contract():
    jwt = auth(
        """{jwt: {keys: https://a.test/jwks.json, algorithms: [RS256], issuer: https://a.test, audience: [chat, b],
        leeway: 0s, from: [header, "cookie:token", "query:token", "subprotocol:bearer"], require: {scope: chat},
        forward: {sub: X-User}, at_expiry: off}}"""
    ).jwt
    assert jwt.keys == "https://a.test/jwks.json"
    assert (jwt.issuer, jwt.audience, jwt.leeway) == (("https://a.test",), ("chat", "b"), 0.0)
    assert jwt.sources[1:] == (("cookie", "token"), ("query", "token"), ("subprotocol", "bearer"))
    assert (jwt.require, jwt.forward) == ((("scope", '"chat"'),), (("sub", "X-User"),))
    assert jwt.expiry_code is None


def test_forward_and_basic():
    assert auth("{forward: {url: http://auth.internal/check, copy: [X-User]}}").forward == ForwardAuth(
        "http://auth.internal/check", 2.0, ("X-User",), None, None
    )
    basic = auth("{basic: {users: /etc/htpasswd}}").basic
    assert basic == Basic("/etc/htpasswd", "gateway")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://Auth.internal/check", "auth.internal:80"),
        ("https://auth.internal/check?x=y", "auth.internal:443"),
        ("https://auth.internal:8443", "auth.internal:8443"),
        ("HTTPS://auth.internal/", "auth.internal:443"),
        ("http://[::1]:81/", "[::1]:81"),
        ("http://192.0.2.1/", "192.0.2.1:80"),
    ],
)
def test_workers_connect_to_auth_servers_as_to_backends(url, address):
    """So their names are resolved for workers, too."""
    config = config_of(route(f"auth: {{forward: {{url: '{url}'}}}}"))
    assert address in map(str, config.backend_addresses())


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{}", "no method is given"),
        ("", "auth: expected a value, found nothing (a value, or no `auth`)"),
        ("{basic: }", "auth.basic: expected a value, found nothing (a value, or no `basic`)"),
        ("{jwt: {secret: , keys: x, algorithms: [RS256]}}", "auth.jwt.secret: expected a value, found nothing"),
        (f"{{jwt: {{secret: {SECRET}, algorithms: [HS256]}}, basic: {{users: x}}}}", "there is `jwt` already"),
        ("{jwt: {secret: abc, algorithms: [none]}}", "without a signature are never accepted"),
        ("{jwt: {algorithms: [HS256]}}", "HS256 needs `secret`"),
        ("{jwt: {secret: abc, algorithms: [RS256]}}", "RS256 needs `keys`"),
        ("{jwt: {secret: abc, keys: x, algorithms: [RS256]}}", "secret: no algorithm uses this"),
        ("{jwt: {secret: abc, algorithms: [HS256], ca: x.pem}}", "`keys` is not a URL"),
        ("{jwt: {keys: 'https://a/k', algorithms: [RS256], refresh: 999ms}}", "999ms is too short (at least 1s"),
        ("{jwt: {secret: '', algorithms: [HS256]}}", "expected text"),
        ("{jwt: {secret: '-----BEGIN PUBLIC KEY-----\\nabc', algorithms: [HS256]}}", "and no secret"),
        ('{jwt: {secret: "abc\\ud800", algorithms: [HS256]}}', "characters that are none"),
        ("{jwt: {secret: abc, algorithms: [HS256], from: [header:x]}}", "no place for a token"),
        ("{jwt: {secret: abc, algorithms: [HS256], from: ['cookie:']}}", "lacks a name"),
        ("{jwt: {secret: abc, algorithms: [HS256], from: []}}", "is empty"),
        ("{jwt: {secret: abc, algorithms: [HS256], forward: {sub: Connection}}}", "has a meaning of its own"),
        ("{jwt: {secret: abc, algorithms: [HS256], forward: {sub: X_User}}}", "not the name of a header field"),
        ("{jwt: {secret: abc, algorithms: [HS256], forward: {sub: X-U, name: x-u}}}", "another claim is sent as x-u"),
        ("{jwt: {secret: abc, algorithms: [HS256], at_expiry: {close_code: 1006}}}", "not a close code"),
        ("{forward: {url: auth.internal/check}}", "not a URL of http or https"),
        ("{forward: {url: http://u:p@auth.internal/}}", "a user, a password"),
        ("{forward: {url: http://a.test/, copy: [Host]}}", "has a meaning of its own"),
        ("{forward: {url: http://a.test/, copy: [X-A, x-a]}}", "x-a is copied already"),
        ("{forward: {url: http://a.test/, ca: a.pem}}", "`url` is not https"),
        ("{forward: {url: HTTP://a.test/, ca: a.pem}}", "`url` is not https"),
        ("{jwt: {secret: abc, algorithms: [HS256], require: {level: .nan}}}", "expected what a claim must be"),
        ("{jwt: {secret: abc, algorithms: [HS256], require: {level: [1, .inf]}}}", "expected what a claim must be"),
        ("{forward: {url: 'http://a.test:0/'}}", "has the port 0"),
        ("{forward: {url: http://a.test/, copied: [X]}}", "known here: url, timeout, copy, cache, ca"),
        ("{basic: {users: x, realm: 'a\"b'}}", "that a realm cannot have"),
    ],
)
def test_mistakes(written, message):
    found = complaints(route(f"auth: {written}"))
    assert any(message in complaint for complaint in found), found
    assert not any("abc" in complaint for complaint in found)


def test_a_scheme_in_capitals():
    (route_,) = config_of(route("auth: {jwt: {keys: 'HTTPS://a.test/Keys', algorithms: [RS256]}}")).routes
    assert route_.auth.jwt.keys == "https://a.test/Keys"


@pytest.mark.parametrize("name", ["none", "None", "NONE"])
def test_the_algorithm_none_is_one_mistake(name):
    (complaint,) = complaints(route(f"auth: {{jwt: {{keys: x, algorithms: [RS256, {name}]}}}}"))
    assert "algorithms[1]: tokens without a signature are never accepted (RS256, ES256 or EdDSA)" in complaint


def test_users():
    text = f"# team\nann:{BCRYPT}\n\nbob:{ARGON2}\r\n"
    assert parse_users(text) == {"ann": BCRYPT, "bob": ARGON2}
    assert users_in(text) == parse_users(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann", "line 1 is not name:hash"),
        (":x", "line 1 is not name:hash"),
        ("ann:secret", "neither of argon2 nor bcrypt"),
        (f"ann:$2y$31${'a' * 53}", "takes too long"),
        (f"ann:$argon2id$v=19$m=9999999,t=3,p=4$c2FsdHNhbHQ${'h' * 43}", "takes too long"),
        ("ann:$apr1$abc$def", "neither of argon2 nor bcrypt"),
        (f"ann:{BCRYPT}\nann:{BCRYPT}", 'line 2: "ann" is there already'),
    ],
)
def test_no_users(text, message):
    with pytest.raises(BadValue) as caught:
        parse_users(text)
    assert message in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": {}}', '{"keys": [1]}', '{"keys": [{}]}', "[" * 100000])
def test_no_key_set(text):
    with pytest.raises(BadValue):
        parse_key_set(text)


def test_files_are_read_for_workers(tmp_path):
    users = tmp_path / "htpasswd"
    users.write_text(f"ann:{BCRYPT}\n")
    config = config_of(route(f"auth: {{basic: {{users: {users}}}}}"))
    assert Settings.of(config).credentials == {str(users): users.read_text()}
    assert not list(config.mistakes_in_files())
    users.write_text("ann:secret")
    ((key, error),) = config.mistakes_in_files()
    assert key == ("routes", 0, "auth", "basic", "users")
    assert "neither of argon2 nor bcrypt" in error.message
