"""Which origins a route lets in."""

import pytest

from gateway.edge.access.origins import Origins
from tests.edge.requests import handshake, request_head

RULES = ("https://app.example.com", "https://*.example.org", "http://*.dev.test:3000", "https://b.test:8443")


def refused(rules, *fields):
    return Origins(rules).refusal(request_head(b"GET / HTTP/1.1", b"Host: a", *fields)) is not None


@pytest.mark.parametrize(
    "origin",
    [
        *(
            b"https://app.example.com",
            b"HTTPS://APP.example.com:443",
            b"https://a.example.org",
            b"https://a.b.example.org",
        ),
        *(b"http://x.dev.test:3000", b"https://b.test:8443"),
    ],
)
def test_let_in(origin):
    assert not refused(RULES, b"Origin: " + origin)


@pytest.mark.parametrize(
    "origin",
    [
        *(b"http://app.example.com", b"https://app.example.com:444", b"https://app.example.com.evil.test"),
        *(b"https://evilapp.example.com", b"https://example.org", b"https://evilexample.org", b"http://a.example.org"),
        *(b"https://a.example.org:444", b"http://x.dev.test", b"https://b.test", b"null", b"none", b"", b"*"),
        *(
            b"https://app.example.com/",
            b"https://app.example.com, https://evil.test",
            b"https://evil.test#.example.org",
        ),
        *(
            b"https://evil.test/.example.org",
            b"https://u@a.example.org",
            b"https://.example.org",
            b"https://\xe9.example.org",
        ),
    ],
)
def test_refused(origin):
    assert refused(RULES, b"Origin: " + origin)


def test_none_and_null_are_separate():
    assert refused(RULES)
    assert not refused(("none",))
    assert refused(("none",), b"Origin: null")
    assert refused(("none",), b"Origin: none")
    assert refused(("none",), b"Origin:")
    assert not refused(("null",), b"Origin: null")
    assert refused(("null",))


def test_two_origins():
    """Whichever of them another parser takes."""
    assert refused(RULES, b"Origin: https://app.example.com", b"Origin: https://app.example.com")


def test_of_a_handshake():
    assert Origins(RULES).refusal(handshake()) is not None
