"""Keys that the contract gives to later issues are unknown, never accepted and ignored."""

from typing import Any

import pytest
import yaml

from .files import CONTRACT, complaints

# Where a key would stand in the contract's example, the key, and what the contract has there.
LATER: list[tuple[list[str | int], str, Any]] = [
    (["upstreams", "chat", "backends", 1], "max_tunnels", 5000),
    (["upstreams", "chat", "backends", 1], "backup", False),
    (["upstreams", "chat"], "hash_on", "client_ip"),
    (["upstreams", "chat"], "health_check", {"path": "/healthz", "every": "5s"}),
    (["upstreams", "chat"], "eject", {"failures": 3}),
    (["upstreams", "chat"], "discover", {"dns": "chat.internal:9001"}),
]


@pytest.mark.parametrize(("place", "key", "value"), LATER, ids=lambda part: str(part)[:30])
def test_a_later_key_is_unknown(place, key, value):
    document = yaml.safe_load(CONTRACT)
    section = document
    for part in place:
        section = section[part]
    section[key] = value
    (complaint,) = complaints(yaml.safe_dump(document, sort_keys=False))
    assert f"{key}: unknown key (" in complaint
    assert "known here: " in complaint


@pytest.mark.parametrize("balance", ["random_two", "consistent_hash"])
def test_a_later_way_of_balancing_is_unknown(balance):
    (complaint,) = complaints(CONTRACT.replace("balance: least_tunnels", f"balance: {balance}"))
    assert complaint.endswith("choices: round_robin, least_tunnels)")
    assert f'upstreams.chat.balance: the text "{balance}" is not a choice (' in complaint
