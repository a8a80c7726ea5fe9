"""What one program leaves to the next is understood across versions, as far as that can be."""

import json
import logging

import pytest

from gateway.processes.control import messages
from gateway.processes.inheritance import CannotInherit, Inheritance

from .records import GOOD

WORKER = {
    "slot": 0,
    "pid": 7,
    "control": 8,
    "store": 9,
    "started": 1.0,
    "ready": 2.0,
    "received": "",
    "tunnels": [[5, [10, 11]]],
}
STORE = {"record": 12, "lifeline": 13, "serial": 3, "names": ["a"], "sockets": {}, "segments": [["s", 14, [5], 0]]}
WHOLE = {**json.loads(GOOD), "control": messages.VERSION, "running": [WORKER], "store": STORE}


def parsed(whole: object) -> Inheritance:
    return Inheritance.parse(json.dumps(whole).encode())


def test_what_is_written_is_understood():
    left = parsed(WHOLE)
    assert Inheritance.parse(left.text()) == left
    assert left.running[0].tunnels == [(5, (10, 11))]
    assert set(left.descriptors()) >= {8, 9, 10, 11, 12, 13, 14}


def test_keys_of_a_newer_program_are_ignored(caplog):
    caplog.set_level(logging.DEBUG, "gateway")
    newer = {
        **WHOLE,
        "certificates": {"a": [1]},
        "running": [{**WORKER, "mood": "good"}],
        "store": {**STORE, "shelves": 2},
    }
    assert parsed(newer) == parsed(WHOLE)
    said = {record.getMessage().rpartition(": ")[2] for record in caplog.records if record.levelno == logging.DEBUG}
    assert said == {"certificates", "mood", "shelves"}


@pytest.mark.parametrize("key", [key for key in WHOLE if key not in ("store", "names", "control", "form")])
def test_a_required_key_that_is_missing_is_refused(key):
    with pytest.raises(CannotInherit, match="incomplete"):
        parsed({name: value for name, value in WHOLE.items() if name != key})


@pytest.mark.parametrize("key", WORKER)
def test_a_required_key_of_a_worker_that_is_missing_is_refused(key):
    with pytest.raises(CannotInherit, match="incomplete"):
        parsed({**WHOLE, "running": [{name: value for name, value in WORKER.items() if name != key}]})


@pytest.mark.parametrize(("key", "value"), [("running", [7]), ("running", 7), ("store", [1]), ("backends", 3)])
def test_what_is_of_another_type_is_refused(key, value):
    with pytest.raises(CannotInherit, match="incomplete"):
        parsed({**WHOLE, key: value})
