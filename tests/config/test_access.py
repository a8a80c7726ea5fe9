"""Rules for who may come in, as files have them."""

import pytest

from gateway.config.access import parse_origin
from gateway.config.errors import BadValue

from .files import complaints, config_of, route

pytestmark = pytest.mark.either_build


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.example.com:443", "https://app.example.com"),
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.Example.com:8443", "https://*.example.com:8443"),
        ("none", "none"),
        ("null", "null"),
        (None, "null"),
    ],
)
def test_origins(written, expected):
    assert parse_origin(written) == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("https://app.example.com/", "has no path"),
        ("https://app.example.com/chat", "https://app.example.com: an origin has no path"),
        ("app.example.com", "is not an origin"),
        ("*", "leave `origins` out"),
        ("https://*", "is not an origin"),
        ("https://a.*.com", "is not an origin"),
        ("https://", "is not an origin"),
        (5, "expected an origin"),
    ],
)
def test_no_origins(written, message):
    with pytest.raises(BadValue, match=r".") as caught:
        parse_origin(written)
    assert message in str(caught.value)


def test_a_network_on_both_lists():
    found = complaints(route("allow: [10.0.0.0/8, 192.0.2.1], deny: [10.1.0.0/16, 192.0.2.1/32]"))
    assert len(found) == 1
    assert "routes[0].deny[1]: 192.0.2.1/32 is allowed, too" in found[0]


def test_the_rules_of_a_route():
    (rules,) = config_of(
        route("origins: [none, null, HTTPS://A.test], allow: [10.0.0.0/8], deny: [10.1.0.0/16]")
    ).routes
    assert rules.origins == ("none", "null", "https://a.test")
    assert [str(network) for network in (*rules.allow, *rules.deny)] == ["10.0.0.0/8", "10.1.0.0/16"]


@pytest.mark.parametrize("rule", ["origins: []", "allow: []"])
def test_a_list_that_lets_nobody_in_is_a_mistake(rule):
    assert complaints(route(rule))
