"""How a backend is chosen: what may be written, and what is reported of what may not."""

import pytest

from gateway.config.settings import Settings, Upstream
from gateway.config.settings import Sticky as StickySettings

from .files import MINIMAL, complaints, config_of


def with_chat(body, backends='["127.0.0.1:9001"]'):
    return MINIMAL.replace('chat: {backends: ["127.0.0.1:9001"]}', f"chat: {{backends: {backends}, {body}}}")


def settings_of(body, environ=None, **how) -> Upstream:
    return Settings.of(config_of(with_chat(body, **how), environ)).upstreams["chat"]


def complaint(body, **how):
    (line,) = complaints(with_chat(body, **how))
    return line.split(": ", 1)[1]


def test_defaults():
    chat = settings_of("balance: least_tunnels")
    assert (chat.hash_on, chat.sticky, chat.slow_start, chat.hash_bound) == (None, None, 30.0, 2.0)
    backend = chat.backends[0]
    assert (backend.weight, backend.max_tunnels, backend.backup, backend.drain) == (1, None, False, False)


def test_what_the_contract_has():
    backends = (
        "[{address: 'c:1', weight: 2, max_tunnels: 5000, backup: false, drain: false}, {address: 'd:1', backup: true}]"
    )
    first, second = settings_of("balance: random_two", backends=backends).backends
    assert (first.max_tunnels, first.backup, first.drain) == (5000, False, False)
    assert second.backup


@pytest.mark.parametrize("hash_on", ["client_ip", "path", "header:X-User", "cookie:session", "query:sid", "query:a[b]"])
def test_what_may_be_hashed(hash_on):
    assert settings_of(f"balance: consistent_hash, hash_on: '{hash_on}'").hash_on == hash_on


def test_the_clients_address_is_hashed_by_default():
    assert settings_of("balance: consistent_hash").hash_on == "client_ip"


@pytest.mark.parametrize(
    ("hash_on", "what"),
    [
        ("header", '"header" lacks a name (header:NAME, such as header:room)'),
        ("'cookie:'", '"cookie:" lacks a name (cookie:NAME, such as cookie:room)'),
        ("'cookie:a b'", '"cookie:a b" lacks a name ('),
        ("'query:a&b'", '"query:a&b" lacks a name ('),
        ("ip", '"ip" is nothing that can be hashed ('),
        ("clientip", "did you mean client_ip?"),
        ("'client_ip:x'", '"client_ip:x" is nothing that can be hashed ('),
        ("7", "expected what of a request is hashed, found the number 7 (client_ip, path, header:NAME,"),
    ],
)
def test_what_may_not(hash_on, what):
    said = complaint(f"balance: consistent_hash, hash_on: {hash_on}")
    assert said.startswith("upstreams.chat.hash_on: ")
    assert what in said


@pytest.mark.parametrize(
    ("body", "key", "needed"),
    [
        ("hash_on: path", "hash_on", "consistent_hash"),
        ("balance: sticky, hash_on: path", "hash_on", "consistent_hash"),
        ("balance: round_robin, hash_bound: 3", "hash_bound", "consistent_hash"),
        ("sticky: {}", "sticky", "sticky"),
        ("balance: consistent_hash, sticky: {}", "sticky", "sticky"),
    ],
)
def test_a_key_that_has_no_effect(body, key, needed):
    balance = body.partition("balance: ")[2].partition(",")[0] or "least_tunnels"
    said = f"upstreams.chat.{key}: has no effect with `balance: {balance}` (`balance: {needed}`, or no `{key}`)"
    assert complaint(body) == said


def test_an_unknown_policy():
    said = complaint("balance: random, hash_on: path")  # which may be right for what was meant
    assert 'upstreams.chat.balance: the text "random" is not a choice (' in said
    assert "round_robin, least_tunnels, random_two, consistent_hash, sticky" in said


@pytest.mark.parametrize(
    ("bound", "what"),
    [
        ("1", "1 is too small (at least 1.05, such as 2 for twice its share, or off)"),
        ("1000", "1000 is too large (at most 100, "),
        ("two", 'expected a number, found the text "two" ('),
        ("true", "expected a number, found true ("),
        (".nan", "expected a number, found the number nan ("),
    ],
)
def test_a_bound_that_is_none(bound, what):
    assert what in complaint(f"balance: consistent_hash, hash_bound: {bound}")


def test_bounds():
    assert settings_of("balance: consistent_hash, hash_bound: 1.25").hash_bound == 1.25
    assert settings_of("balance: consistent_hash, hash_bound: off").hash_bound is None


def test_the_cookie():
    assert settings_of("balance: sticky").sticky == StickySettings("gateway_backend", None, None)
    body = "balance: sticky, sticky: {cookie: node, secret: '${S}', ttl: 8h}"
    chat = settings_of(body, {"S": "0123456789abcdef"})
    assert chat.sticky == StickySettings("node", "0123456789abcdef", 28800.0)
    assert "0123456789abcdef" not in repr(chat)


@pytest.mark.parametrize(
    ("sticky", "what"),
    [
        (
            "{secret: short}",
            "sticky.secret: is too short to be secret (16 characters or more, such as ${STICKY_SEC",
        ),
        ("{secret: 12345678901234567}", "sticky.secret: expected text, found the number"),
        ("{cookie: 'a b'}", 'sticky.cookie: "a b" is not a token ('),
        ("{cookie: 'a;b'}", 'sticky.cookie: "a;b" is not a token ('),
        ("{ttl: 5}", "sticky.ttl: expected a duration, found the number 5 ("),
        ("{path: /}", "sticky.path: unknown key ("),
    ],
)
def test_a_cookie_that_cannot_be(sticky, what):
    assert what in complaint(f"balance: sticky, sticky: {sticky}")


def test_rebalance():
    def rebalance_of(body):
        return config_of(with_chat(body)).upstreams["chat"].rebalance

    assert rebalance_of("balance: sticky") is None
    assert rebalance_of("rebalance: off") is None
    assert (rebalance_of("rebalance: {}").settle, rebalance_of("rebalance: {}").period) == (30.0, 120.0)
    assert rebalance_of("rebalance: {settle: 5s, period: 10m}").period == 600.0
    assert "expected a mapping or off, found true" in complaint("rebalance: true")
    assert "unknown key" in complaint("rebalance: {after: 5s}")
    assert "expected a duration" in complaint("rebalance: {settle: 5}")


def test_slow_start():
    assert settings_of("slow_start: 2m").slow_start == 120.0
    assert settings_of("slow_start: off").slow_start is None


@pytest.mark.parametrize(
    ("backend", "what"),
    [
        ("max_tunnels: 0", "max_tunnels: 0 is too small (at least 1)"),
        ("max_tunnels: lots", "max_tunnels: expected a whole number, found "),
        ("backup: maybe", "backup: expected true or false, found "),
        ("drain: 1", "drain: expected true or false, found "),
    ],
)
def test_a_backend_that_cannot_be(backend, what):
    assert f"upstreams.chat.backends[0].{what}" in complaint(
        "slow_start: 1s", backends=f"[{{address: 'c:1', {backend}}}]"
    )


def test_somebody_has_to_serve_before_the_backups():
    said = complaint("slow_start: 1s", backends="[{address: 'c:1', backup: true}, {address: 'd:1', backup: true}]")
    assert said == "upstreams.chat.backends: all backends are `backup` (at least one that is not)"
