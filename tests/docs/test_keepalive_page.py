"""``docs/keepalive.md`` beside what the probe knows, what a stripped upgrade is told, and what HAProxy takes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.probe.culprits import CULPRITS
from gateway.probe.planner import Verdict
from gateway.probe.report import Path as ProbedPath
from gateway.probe.report import Report
from gateway.probe.words import duration
from gateway.protocol.requests import RequestReader
from gateway.protocol.websocket import StrippedUpgrade, check_not_stripped
from tests.docs.pages import ROOT, Block, blocks, rows
from tests.support.raw import request

PAGE = ROOT / "docs" / "keepalive.md"


def test_the_limits_are_those_that_the_probe_names() -> None:
    known = [
        [culprit.name, duration(culprit.seconds) + " of age" * (culprit.limit == "age"), culprit.setting]
        for culprit in CULPRITS
    ]
    assert [[cell.strip("`") for cell in row] for row in rows(PAGE, "## What is it?")] == known


def test_the_probe_says_what_is_shown() -> None:
    (shown,) = [block.text for block in blocks("console", pages=[PAGE]) if "gateway probe" in block.first_line]
    verdict = Verdict(59.6, 60.2, ended_by="fin", by_itself=True, confirmed=True)
    report = Report(ProbedPath("wss://chat.example.com/probe"), verdict, max_seconds=120)
    assert report.sentence() in shown.splitlines()


def test_a_stripped_upgrade_is_told_what_is_shown() -> None:
    (shown,) = [block.text for block in blocks("text", pages=[PAGE]) if block.text.startswith("426 ")]
    passed = (
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Host: chat.example.com",
        "X-Forwarded-Server: www.example.com",
    )
    head = RequestReader().feed(request("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *passed))
    assert head is not None
    with pytest.raises(StrippedUpgrade) as raised:
        check_not_stripped(head)
    assert shown == f"426 Upgrade Required: {raised.value}\n"


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
@pytest.mark.parametrize("block", blocks("haproxy"), ids=str)
def test_haproxy_takes_what_is_said_to_be_of_haproxy(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(block.text)
    done = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
