"""Keys that the contract gives to later issues are unknown, never accepted and ignored."""

from typing import Any

import pytest
import yaml

from .files import CONTRACT, complaints

# Where a key would stand in the contract's example, the key, and what the contract has there.
LATER: list[tuple[list[str | int], str, Any]] = [(["access_log"], "live_every", "10m")]


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
