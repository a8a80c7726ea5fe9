"""Warnings of settings of upstreams that can never act."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load_with_doubts

TWO = ["10.0.0.1:1", "10.0.0.2:1"]
ALL = {
    "eject": True,
    "rebalance": {"settle": "10s"},
    "connect_retries": 1,
    "slow_start": "10s",
}


def warnings(directory: Path, upstream: dict[str, Any], **more: Any) -> list[str]:
    """What is said, without the places in the file."""
    file = directory / "gateway.yaml"
    config = {
        "listen": [{"address": "127.0.0.1:80"}],
        "upstreams": {"chat": upstream, **more},
        "routes": [{"name": "chat", "upstream": "chat"}],
    }
    file.write_text(json.dumps(config, indent=1))
    return [str(doubt).partition(": ")[2] for doubt in load_with_doubts(file, {})[1]]


@pytest.mark.parametrize(
    "upstream",
    [
        {"backends": TWO, **ALL},
        {"backends": [TWO[0], {"address": TWO[1], "backup": True}], **ALL},
        {"backends": TWO[:1], "discover": {"dns": "chat.internal:1"}, **ALL},
        {"discover": {"dns": "chat.internal:1"}, **ALL},
        {"backends": TWO[:1], "health_check": "tcp"},
        {"backends": TWO[:1], "connect_retries": 0, "slow_start": "off", "eject": "off", "rebalance": "off"},
        {"backends": TWO, "balance": "consistent_hash", "slow_start": "off"},
    ],
)
def test_what_can_act(tmp_path: Path, upstream: dict[str, Any]) -> None:
    assert warnings(tmp_path, upstream) == []


@pytest.mark.parametrize("backends", [TWO[:1], [TWO[0], {"address": TWO[1], "drain": True}]])
def test_one_backend(tmp_path: Path, backends: list[Any]) -> None:
    """One that is out of service for good is none."""
    assert warnings(tmp_path, {"backends": backends, **ALL}) == [
        "upstreams.chat.eject: warning: never ejects the only backend: half of an upstream's backends always stay in"
        " service (more backends, or no `eject`; `health_check` takes a single backend out of service, too)",
        "upstreams.chat.rebalance: warning: there is no other backend that tunnels could move to (more backends, or no"
        " `rebalance`)",
        "upstreams.chat.connect_retries: warning: there is no other backend that could be tried (more backends, or no"
        " `connect_retries`)",
        "upstreams.chat.slow_start: warning: the only backend gets everything at once, however new it is (more"
        " backends, or no `slow_start`)",
    ]


def test_a_key_has_one_place(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, {"backends": TWO, "balance": "consistent_hash", "slow_start": "10s"})
    assert warning.startswith("upstreams.chat.slow_start: warning: has no effect with `balance: consistent_hash`")


def test_no_backend_in_service(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, {"backends": [{"address": each, "drain": True} for each in TWO]})
    assert warning == (
        "upstreams.chat.backends: warning: every backend has `drain: true`: requests get 503 (at least one without)"
    )


def test_an_upstream_without_a_route(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, {"backends": TWO}, spare={"backends": TWO})
    assert warning == "upstreams.spare: warning: no route sends requests here (a route with this upstream)"
