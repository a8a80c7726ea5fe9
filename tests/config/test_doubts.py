"""What a configuration may say but can hardly mean."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load_with_doubts
from gateway.config.address import parse_backend, parse_listen
from gateway.config.doubts import leads_to

from .files import MINIMAL


def warnings(tmp_path, text):
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    return [str(doubt).removeprefix(f"{tmp_path}/") for doubt in load_with_doubts(file, {})[1]]


def test_nothing_to_say(tmp_path):
    assert warnings(tmp_path, MINIMAL) == []


def test_backends_that_are_the_gateway_itself(tmp_path):
    text = MINIMAL.replace('["127.0.0.1:9001"]', '["a:1", "localhost:8080", {weight: 2, address: "127.0.0.1:8080"}]')
    assert warnings(tmp_path, text) == [
        "gateway.yaml:3:28: upstreams.chat.backends[1]: warning: localhost:8080 is where this gateway listens"
        " (0.0.0.0:8080) (the address of a server; requests that come back get 508)",
        "gateway.yaml:3:67: upstreams.chat.backends[2].address: warning: 127.0.0.1:8080 is where this gateway listens"
        " (0.0.0.0:8080) (the address of a server; requests that come back get 508)",
    ]


def test_one_warning_for_a_backend_that_two_listeners_have(tmp_path):
    text = json.dumps(
        {
            "listen": [{"address": "0.0.0.0:80"}, {"address": "127.0.0.2:80"}],
            "upstreams": {"chat": {"backends": ["127.0.0.2:80"]}},
            "routes": [{"name": "chat", "upstream": "chat"}],
        }
    )
    assert len(warnings(tmp_path, text)) == 1


@pytest.mark.parametrize(
    ("backend", "listener"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("10.0.0.5:80", "10.0.0.5:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("127.8.9.1:80", "*:80"),
        ("localhost:80", "0.0.0.0:80"),
        ("localhost:80", "[::]:80"),
        ("localhost:80", "[::1]:80"),
        ("LOCALHOST:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "localhost:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:80", "[::]:80"),
        ("[::0:1]:80", "[::1]:80"),
        ("[2001:db8::1]:80", "[2001:DB8::1]:80"),
        ("unix:/run/a", "unix:/run/a"),
    ],
)
def test_loops(backend, listener):
    assert leads_to(parse_backend(backend), parse_listen(listener))


@pytest.mark.parametrize(
    ("backend", "listener"),
    [
        ("127.0.0.1:81", "127.0.0.1:80"),
        ("127.0.0.2:80", "127.0.0.1:80"),
        ("10.0.0.5:80", "0.0.0.0:80"),  # perhaps another machine
        ("10.0.0.5:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "10.0.0.5:80"),
        ("127.0.0.1:80", "[::]:80"),  # [::] is IPv6 alone
        ("[::1]:80", "0.0.0.0:80"),
        ("chat.internal:80", "0.0.0.0:80"),
        ("unix:/run/b", "unix:/run/a"),
        ("127.0.0.1:80", "unix:/run/a"),
        ("unix:/run/a", "127.0.0.1:80"),
    ],
)
def test_no_loops(backend, listener):
    assert not leads_to(parse_backend(backend), parse_listen(listener))


@given(st.ip_addresses(), st.integers(1, 65535))
def test_any_address_leads_to_itself(ip, port):
    text = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    assert leads_to(parse_backend(text), parse_listen(text))


def test_two_cookies_of_one_name(tmp_path):
    def sticky(address, cookie):
        return {"backends": [address], "balance": "sticky", **cookie}

    text = json.dumps(
        {
            "listen": [{"address": "0.0.0.0:80"}],
            "upstreams": {
                "one": sticky("a:1", {}),
                "two": sticky("b:1", {"sticky": {"cookie": "gateway_backend"}}),
                "three": sticky("c:1", {"sticky": {"cookie": "three"}}),
            },
            "routes": [
                {"name": name, "upstream": name, "match": {"path": f"/{name}"}} for name in ("one", "two", "three")
            ],
        }
    )
    (warning,) = warnings(tmp_path, text)
    assert "upstreams.two.sticky.cookie: warning: the cookie gateway_backend is that of one, too" in warning


def test_weak_tokens(tmp_path):
    jwt = "{secret: %s, keys: '%s', algorithms: [HS256, HS512, RS256], from: [header, 'query:t']}"
    text = MINIMAL.replace(
        "upstream: chat}", "upstream: chat, auth: {jwt: " + jwt % ("s" * 63, "http://a.test/") + "}}"
    )
    found = warnings(tmp_path, text)
    assert [line.split(" ", 1)[1] for line in found] == [
        "routes[0].auth.jwt.secret: warning: 63 bytes are fewer than HS512 needs; short secrets can be guessed"
        " (64 bytes or more, by `openssl rand -hex 64`)",
        "routes[0].auth.jwt.keys: warning: without TLS, anyone on the way to this server can let himself in (https://…)",
        "routes[0].auth.jwt.from[1]: warning: a token in a URL (t=…) ends up in histories and in logs of others"
        " (header, or subprotocol:NAME for browsers)",
    ]
    assert "sss" not in "".join(found)


@pytest.mark.parametrize("keys", ["https://a.test/", "http://127.0.0.1/", "http://[::1]:80/", "http://localhost/", "x"])
def test_tokens_that_are_not_weak(tmp_path, keys):
    jwt = f"{{secret: {'s' * 64}, keys: '{keys}', algorithms: [HS256, HS512, RS256]}}"
    text = MINIMAL.replace("upstream: chat}", "upstream: chat, auth: {jwt: " + jwt + "}}")
    (tmp_path / "x").write_text('{"keys": []}')
    assert warnings(tmp_path, text) == []
