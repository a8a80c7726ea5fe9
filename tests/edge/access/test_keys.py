"""Which keys may have signed a token, and what happens when none is known."""

import asyncio

import pytest

from gateway.config.errors import BadValue
from gateway.edge.access.credentials import Credentials
from gateway.edge.access.granted import Granted
from gateway.edge.access.keys import ASK_EVERY_SECONDS, MAX_TRIED, KeySet, KeySource
from gateway.edge.refused import Refused
from tests.support.deadline import within
from tests.support.tokens import jwk, key_set, signed

from .jwts import URL, bearing, jwt, let_in, refusal

RS = ("RS256",)


def rs256(*keys, **settings):
    return jwt(key_set(*keys), secret=None, algorithms=RS, **settings)


# --- which key ------------------------------------------------------------------------------------------------------


def test_the_key_of_that_name():
    method = rs256(jwk("RS256", "one", kid="1"), jwk("RS256", "two", kid="2"))
    assert let_in(method, signed("RS256", "two", {"kid": "2"}))
    assert refusal(method, signed("RS256", "two", {"kid": "1"})).reason == "the token's signature is wrong"
    assert "key that is not known" in refusal(method, signed("RS256", "two", {"kid": "3"})).reason
    assert "key that is not known" in refusal(method, signed("RS256", "two", {"kid": ""})).reason


def test_a_token_that_names_no_key_is_tried_with_all():
    method = rs256(jwk("RS256", "one", kid="1"), jwk("ES256"), jwk("RS256", "two", kid="2"))
    assert let_in(method, signed("RS256", "two"))
    assert refusal(method, signed("RS256", "three")).reason == "the token's signature is wrong"


def test_two_types_with_one_name():
    method = jwt(key_set(jwk("ES256", kid="1"), jwk("RS256", kid="1")), algorithms=RS)
    assert let_in(method, signed("RS256", header={"kid": "1"}))


def test_not_all_of_many_keys_are_tried():
    keys = KeySet(key_set(*(jwk("RS256", "one") for _ in range(MAX_TRIED + 10))))
    assert len(keys.candidates(None, "RS256")) == MAX_TRIED


@pytest.mark.parametrize(
    ("members", "fits"),
    [
        ({}, True),
        ({"use": "sig", "key_ops": ["verify"], "alg": "RS256"}, True),
        ({"key_ops": ["sign", "verify"]}, True),
        ({"use": "enc"}, False),
        ({"key_ops": ["sign"]}, False),
        ({"key_ops": "verify"}, False),
        ({"key_ops": None}, False),
        ({"alg": "PS256"}, False),
        ({"alg": "HS256"}, False),
        ({"alg": 5}, False),
        ({"kty": "oct", "k": "AAAA"}, False),
        ({"kty": "EC"}, False),
        ({"n": 5}, False),
        ({"n": "!"}, False),
        ({"e": ""}, False),
        ({"n": None}, False),
    ],
)
def test_what_a_key_is_for(members, fits):
    key = {name: value for name, value in jwk("RS256", **members).items() if value is not None or name == "key_ops"}
    candidates = KeySet(key_set(key)).candidates(None, "RS256")
    assert len(candidates) == fits


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512"])
def test_each_algorithm_has_its_curve(algorithm):
    keys = KeySet(key_set(*(jwk(name) for name in ("ES256", "ES384", "ES512", "EdDSA", "RS256"))))
    (key,) = keys.candidates(None, algorithm)
    assert key.curve.key_size == {"ES256": 256, "ES384": 384, "ES512": 521}[algorithm]


def test_names_of_eddsa():
    assert KeySet(key_set(jwk("EdDSA", alg="Ed25519"))).candidates(None, "EdDSA")
    assert not KeySet(key_set(jwk("EdDSA", alg="Ed448"))).candidates(None, "EdDSA")


def test_a_private_key_in_a_set_serves_as_its_public_half():
    from tests.support.tokens import ALGORITHMS, private_key

    private = ALGORITHMS["RS256"].to_jwk(private_key("RS", "one"), as_dict=True) | {"key_ops": ["sign", "verify"]}
    assert let_in(rs256(private), signed("RS256"))


def test_short_rsa_keys_are_not_used():
    assert KeySet(key_set(jwk("RS256", "short"))).candidates(None, "RS256") == []


def test_no_key_set():
    with pytest.raises(BadValue):
        KeySet("{}")
    credentials = Credentials(lambda source: None)
    credentials.use({URL: "not JSON"})
    assert KeySource(URL, credentials).keys() is None


# --- keys that change -----------------------------------------------------------------------------------------------


def test_no_keys_yet():
    credentials = Credentials(lambda source: None)
    method = jwt(credentials, keys=URL, algorithms=("RS256", "HS256"))
    refused = refusal(method, signed("RS256"))
    assert (refused.status, refused.result) == (503, "unavailable")
    credentials.use({URL: key_set(jwk("RS256"))})
    assert let_in(method, signed("RS256"))


def test_a_key_that_is_gone():
    """Of a token that was accepted before, too."""
    credentials = Credentials(lambda source: None)
    method = jwt(credentials, keys="/jwks.json", algorithms=RS)
    credentials.use({"/jwks.json": key_set(jwk("RS256", "one", kid="1"), jwk("RS256", "two", kid="2"))})
    token = signed("RS256", "one", {"kid": "1"})
    assert let_in(method, token)
    credentials.use({"/jwks.json": key_set(jwk("RS256", "two", kid="2"))})
    assert "key that is not known" in refusal(method, token).reason


class Asked:
    """A worker's side of a key set that the supervisor fetches."""

    def __init__(self, *keys, **settings):
        self.questions = []
        self.now = 1000.0
        self.credentials = Credentials(self.questions.append)
        self.use(*keys)
        self.method = jwt(self.credentials, keys=URL, secret=None, algorithms=RS, **settings)
        source = self.method._source
        assert source is not None
        source._clock = lambda: self.now
        self.verdicts = []

    def use(self, *keys):
        self.credentials.use({URL: key_set(*keys)})

    def wait(self, token):
        """:returns: what cancels it"""
        waiting = self.method.check(bearing(token))
        assert callable(waiting)
        return waiting(self.verdicts.append)


ONE, TWO = jwk("RS256", "one", kid="1"), jwk("RS256", "two", kid="2")
BY_TWO = signed("RS256", "two", {"kid": "2"})


async def test_rotated_keys():
    asked = Asked(ONE)
    asked.wait(BY_TWO)
    asked.wait(BY_TWO)
    assert (asked.questions, asked.verdicts) == ([URL], [])
    asked.use(ONE, TWO)
    assert [type(verdict) for verdict in asked.verdicts] == [Granted, Granted]
    assert isinstance(asked.method.check(bearing(BY_TWO)), Granted)
    asked.credentials.answered(URL)
    assert len(asked.verdicts) == 2


async def test_a_made_up_name_is_asked_for_seldom():
    asked = Asked(ONE)
    asked.wait(BY_TWO)
    asked.use(ONE)
    assert asked.verdicts == []  # other texts have changed, and this one is still being fetched
    asked.credentials.answered(URL)
    (refused,) = asked.verdicts
    assert isinstance(refused, Refused)
    assert (refused.status, refused.reason) == (401, "the token is signed with a key that is not known here")
    assert refusal(asked.method, BY_TWO).status == 401
    asked.now += ASK_EVERY_SECONDS
    asked.wait(BY_TWO)
    assert asked.questions == [URL, URL]


async def test_no_answer(monkeypatch):
    monkeypatch.setattr("gateway.edge.access.jwt.ANSWER_SECONDS", 0.01)
    asked = Asked(ONE)
    answered = asyncio.Event()
    waiting = asked.method.check(bearing(BY_TWO))
    assert callable(waiting)
    waiting(lambda verdict: (asked.verdicts.append(verdict), answered.set()))
    await within(answered.wait(), "the answer")
    (refused,) = asked.verdicts
    assert isinstance(refused, Refused)
    assert refused.status == 401
    asked.use(ONE, TWO)
    assert len(asked.verdicts) == 1


async def test_one_that_went_away():
    asked = Asked(ONE)
    cancel = asked.wait(BY_TWO)
    asked.wait(BY_TWO)
    cancel()
    asked.use(TWO)
    assert len(asked.verdicts) == 1


async def test_an_answer_that_was_lost_is_asked_for_again():
    asked = Asked(ONE)
    asked.wait(BY_TWO)
    asked.now += 60
    asked.wait(BY_TWO)
    assert asked.questions == [URL, URL]
    asked.use(TWO)
    assert len(asked.verdicts) == 2


async def test_keys_that_are_gone_while_a_request_waits():
    asked = Asked(ONE)
    asked.wait(BY_TWO)
    asked.credentials.use({})
    (refused,) = asked.verdicts
    assert isinstance(refused, Refused)
    assert refused.status == 401


def test_a_file_is_not_asked_for():
    questions = []
    credentials = Credentials(questions.append)
    credentials.use({"/jwks.json": key_set(ONE)})
    assert refusal(jwt(credentials, keys="/jwks.json", algorithms=RS), BY_TWO).status == 401
    assert questions == []
