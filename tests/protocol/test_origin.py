"""Origins that are the same are equal, and nothing else is an origin (RFC 6454)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.origin import canonical_origin

pytestmark = pytest.mark.either_build


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("https://app.example.com:0443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("https://app.example.com:80", "https://app.example.com:80"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0:0::1]", "http://[::1]"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("null", "null"),
        *((text, None) for text in ("", "none", "*", "https://", "https://a/", "https://a b", "https://a.", "a.b")),
        *((text, None) for text in ("https://a,https://b", "https://a https://b", "https://u@a", "https://a:", "//a")),
        *((text, None) for text in ("https://a:99999", "https://a:0", "https://a..b", "https://[::g]", "https://é")),
        *((text, None) for text in ("https://a\n", "https://a#x", "https://a?x", "https://a\0", " https://a")),
    ],
)
def test_the_canonical_form(text, expected):
    assert canonical_origin(text) == expected


@given(st.text(max_size=40) | st.from_regex(r"https?://[a-z0-9.:\[\]@/-]{0,30}", fullmatch=True))
def test_the_canonical_form_of_a_canonical_form_is_itself(text):
    origin = canonical_origin(text)
    assert origin is None or canonical_origin(origin) == origin
