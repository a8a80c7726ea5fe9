"""Tokens as credentials: algorithms, headers, spellings, answers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.access.jws import MAX_BYTES
from gateway.edge.refused import Refused
from tests.support.examples import examples
from tests.support.tokens import SECRET, b64, compact, hs256, jwk, key_set, private_key, signed

from .jwts import bearing, jwt, let_in, refusal, request

# --- every algorithm --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
def test_every_algorithm(algorithm):
    method = jwt(key_set(jwk(algorithm, "other"), jwk(algorithm)), algorithms=(algorithm,))
    assert let_in(method, signed(algorithm)).user == "ann"
    assert refusal(method, signed(algorithm, "stranger")).reason == "the token's signature is wrong"


def test_ed448():
    assert let_in(jwt(key_set(jwk("EdDSA", "448")), algorithms=("EdDSA",)), signed("EdDSA", "448")).user == "ann"


# --- algorithms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["none", "None", "NONE", "nOnE", "none ", "", "HS256\u0000", "hs256", "HS384", "RS256"]
)
@pytest.mark.parametrize("signature", [b"", b"x" * 32])
def test_only_listed_algorithms(name, signature):
    claims = {"sub": "ann"}
    token = compact({"alg": name}, claims, lambda text: signature)
    assert refusal(jwt(), token).status == 401
    rightly_signed = hs256(claims, header={"alg": name})
    assert "algorithm" in refusal(jwt(), rightly_signed).reason


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_public_key_is_no_secret(secret):
    """Each form of the RSA key, taken for the secret of HS256."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = private_key("RS", "one").public_key()
    forms = [
        public.public_bytes(encoding, form)
        for encoding in (Encoding.PEM, Encoding.DER)
        for form in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)
    ]
    key = jwk("RS256")
    forms += [json.dumps(key).encode(), key["n"].encode(), key_set(key).encode()]
    algorithms = ("RS256",) if secret is None else ("HS256", "RS256")
    method = jwt(key_set(key), secret=secret, algorithms=algorithms)
    for form in forms:
        for tried in (form, form.strip()):
            assert refusal(method, hs256(secret=tried)).status == 401
    assert let_in(method, signed("RS256"))


def test_a_secret_in_a_key_set_is_none():
    symmetric = {"kty": "oct", "k": b64("k" * 32)}
    method = jwt(key_set(symmetric), algorithms=("HS256", "RS256"))
    assert refusal(method, hs256(secret="k" * 32)).status == 401
    assert let_in(method, hs256())


# --- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "HS256", "crit": ["exp"], "exp": 1},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "b64": False},
        {"alg": "HS256", "b64": 1},
        {"alg": "HS256", "zip": "DEF"},
        {"alg": "HS256", "enc": "A128GCM"},
        {"alg": "HS256", "cty": "JWT"},
        {"alg": "HS256", "kid": 5},
        {"alg": ["HS256"]},
        {"typ": "JWT"},
        '{"alg": "HS256", "alg": "HS256"}',
        '{"alg": "HS256", "x": NaN}',
        "[]",
        '"HS256"',
        "null",
        b"\xff",
        b"\xef\xbb\xbf{}",
        '{"alg": "HS256"}'.encode("utf-16"),
        "[" * 9000,
    ],
)
def test_headers_that_are_refused(header):
    assert refusal(jwt(), hs256(header=header)).status == 401


def test_what_a_header_says_of_keys_is_not_used():
    header = {"alg": "RS256", "jwk": jwk("RS256", "stranger"), "jku": "https://evil.test/jwks.json", "x5u": "x"}
    method = jwt(key_set(jwk("RS256")), algorithms=("RS256",))
    assert refusal(method, signed("RS256", "stranger", header)).reason == "the token's signature is wrong"
    assert let_in(method, signed("RS256", header=header))


@pytest.mark.parametrize(
    "payload",
    [
        "[]",
        '"x"',
        "1",
        '{"exp": 1e999}',
        '{"exp": Infinity}',
        '{"exp": NaN}',
        '{"exp": "4102444800"}',
        '{"exp": true}',
        '{"exp": null}',
        '{"exp": [4102444800]}',
        '{"exp": 4102444800, "exp": 4102444801}',
        '{"a": {"b": 1, "b": 2}}',
        '{"nbf": "x"}',
        '{"exp": -1}',
        '{"exp": -' + "9" * 400 + "}",
        '{"exp": ' + "9" * 5000 + "}",
        '{"a":' * 2000,
        '{"a":' + "[" * 9000 + "]" * 900 + "}",
        b'{"sub": "\xff"}',
    ],
)
def test_payloads_that_are_refused(payload):
    assert refusal(jwt(), hs256(payload)).status == 401


def test_a_time_beyond_all_others():
    assert let_in(jwt(), hs256('{"exp": ' + "9" * 400 + "}")).expiry.at_unix > 1e15


def test_longest_token():
    def of(size):
        return hs256(json.dumps({"sub": "ann", "x": ""}).replace('""', '"' + "y" * size + '"'))

    size = 0
    while len(of(size + 1)) <= MAX_BYTES:
        size += max(1, (MAX_BYTES - len(of(size))) // 2)
    assert MAX_BYTES - 4 <= len(of(size)) <= MAX_BYTES
    assert let_in(jwt(), of(size)).user == "ann"
    assert "longer than 16384 bytes" in refusal(jwt(), of(size + 4)).reason


@pytest.mark.parametrize(
    "spelled",
    [
        lambda token: token + "=",
        lambda token: token.replace(".", "=.", 1),
        lambda token: token + ".",
        lambda token: "." + token,
        lambda token: token.replace(".", "..", 1),
        lambda token: token + "%20",
        lambda token: token[:10] + " " + token[10:],
        lambda token: token[:-1] + chr(ord(token[-1]) + 1),  # bits that no byte has
        lambda token: token + "\n",
        lambda token: token.rsplit(".", 1)[0] + ".",
        lambda token: token.rsplit(".", 1)[0],
    ],
)
def test_one_spelling(spelled):
    token = hs256({"sub": "ann"}, secret=SECRET)
    assert token[-1] in "AEIMQUYcgkosw048"
    assert let_in(jwt(), token)
    assert refusal(jwt(), spelled(token)).status == 401


# --- answers --------------------------------------------------------------------------------------------------------


def test_the_answer_without_a_token():
    for method, asked in ((jwt(), request()), (jwt(), request((b"Authorization", b"Basic YTpi")))):
        with pytest.raises(Refused) as caught:
            method.check(asked)
        assert (caught.value.status, caught.value.fields) == (401, [(b"WWW-Authenticate", b'Bearer realm="gateway"')])


def test_the_answer_to_a_bad_token():
    refused = refusal(jwt(), "x.y")
    assert refused.fields == [
        (
            b"WWW-Authenticate",
            b'Bearer realm="gateway", error="invalid_token", error_description="the token is malformed"',
        )
    ]


def test_the_answer_to_a_token_that_does_not_suffice():
    refused = refusal(jwt(require=(('a"\\\r\nü', "1"),)), hs256())
    assert refused.status == 403
    assert refused.fields == [
        (
            b"WWW-Authenticate",
            b'Bearer realm="gateway", error="insufficient_scope", '
            b'error_description="the token does not have the a????? that is required here"',
        )
    ]


# --- any bytes ------------------------------------------------------------------------------------------------------

CLAIMS = st.sampled_from(["exp", "nbf", "iss", "aud", "sub", "scope", "alg", "kid", "crit", "b64", "typ", "cty"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CLAIMS | st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(CLAIMS, JSON, max_size=6)
STRICT = jwt(
    key_set(jwk("RS256", kid="k"), jwk("ES256"), jwk("EdDSA"), {"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "x": 5}),
    algorithms=("HS256", "RS256", "PS256", "ES256", "EdDSA"),
    issuer=("a",),
    audience=("b",),
    require=(("scope", '"chat"'),),
    forward=(("sub", "X-User"),),
)
LENIENT = jwt(forward=(("sub", "X-User"), ("scope", "X-Scope")))


def is_decided(method, token):
    """Whether it is let in, or refused with a right answer."""
    try:
        granted = method.check(bearing(token))
    except Refused as refused:
        ((_, value),) = refused.fields
        return refused.status in (401, 403) and value.isascii() and value.decode().isprintable()
    else:
        *lines, end = granted.fields.split(b"\r\n")
        assert end == b""
        assert all(line.startswith((b"X-User: ", b"X-Scope: ")) for line in lines)
        assert not any(c in line for line in lines for c in (b"\r", b"\n", b"\0"))
        return True


@settings(max_examples=examples(150))
@given(st.binary(max_size=200) | st.from_regex(rb"[\w-]{0,40}(\.[\w-]{0,90}){0,5}", fullmatch=True))
def test_any_bytes(token):
    assert is_decided(STRICT, token)


@settings(max_examples=examples(300))
@given(
    OBJECTS, OBJECTS, st.binary(max_size=100), st.sampled_from(["HS256", "RS256", "PS256", "ES256", "EdDSA", "none"])
)
def test_any_header_claims_and_signature(header, claims, signature, algorithm):
    header = {"alg": algorithm} | header
    assert is_decided(STRICT, compact(header, claims, lambda text: signature))
    assert is_decided(LENIENT, hs256(claims, header=header))
    assert is_decided(LENIENT, hs256(claims))
