"""What is on the wire changes only with its version."""

import json
from typing import get_args

from gateway.processes.control import messages
from gateway.processes.control.messages import Message
from gateway.processes.control.wire import unpack

from . import golden

WRITE = "python -m tests.processes.control.golden"


def test_the_wire_is_what_this_version_says():
    known = json.loads(golden.FILE.read_text())
    assert known.pop("version") == messages.VERSION, f"run {WRITE}"
    assert golden.said() == known, f"the wire has changed: count VERSION up in messages.py, then run {WRITE}"


def test_what_the_file_says_is_understood():
    known = json.loads(golden.FILE.read_text())
    assert [unpack(each.encode()) for each in known["messages"]] == golden.samples()


def test_every_message_is_in_the_file():
    assert {type(each) for each in golden.samples()} == set(get_args(Message))


def test_a_change_without_another_version_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(golden, "FILE", tmp_path / "golden.json")
    assert golden.main() == 0
    written = golden.FILE.read_text()
    assert golden.main() == 0
    sample = messages.Stop()
    monkeypatch.setattr(golden, "samples", lambda: [sample])
    assert golden.main() == 1
    assert "count VERSION up" in capsys.readouterr().err
    assert golden.FILE.read_text() == written
    monkeypatch.setattr(messages, "VERSION", messages.VERSION + 1)
    assert golden.main() == 0
    assert json.loads(golden.FILE.read_text())["messages"] == ['["Stop",[]]']
