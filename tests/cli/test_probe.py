"""``gateway probe``, as far as it can be told without waiting for silences."""

import json
import socket

import pytest
from click.testing import CliRunner, Result

from gateway.cli.probe import _print, probe
from gateway.probe.outcomes import Cut, Failed, Rung, Survived, Talked
from gateway.probe.planner import Verdict
from gateway.probe.report import Path, Report

URL = "ws://127.0.0.1:1/"


def run(*args: str) -> Result:
    return CliRunner().invoke(probe, args)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "Missing argument 'URL'"),
        (("example.com",), "expected ws://host/path"),
        (("ftp://example.com/",), "expected ws://host/path"),
        ((URL, "--max", "5"), "with its unit: 5s"),
        ((URL, "--max", "off"), "cannot be off (a duration"),
        ((URL, "--max", "500ms"), "500ms (from 1 s to 1 day)"),
        ((URL, "--max", "25h"), "25h (from 1 s to 1 day)"),
        ((URL, "--pong-timeout", "0s"), "too short"),
        ((URL, "--header", "nonsense"), "expected NAME:VALUE"),
        ((URL, "--header", "Upgrade: x"), "the handshake sets this itself"),
        ((URL, "--subprotocol", "a b"), "expected a token"),
        ((URL, "--origin", "a\nb"), "control characters"),
        ((URL, "--nonsense"), "No such option"),
        ((URL, "extra"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_exits_with_2(args, says):
    result = run(*args)
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def test_the_users_control_characters_reach_no_terminal():
    result = run("ws://exa\x1b[31mmple/#x")
    assert result.exit_code == 2
    assert "\x1b" not in result.output


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    result = run(f"ws://127.0.0.1:{port}/", "--json")
    assert result.exit_code == 1
    assert f"Error: cannot connect to 127.0.0.1:{port}: connection refused" in result.output
    assert result.stdout == ""


def test_how_long_it_takes_is_said_first():
    result = run(URL, "--max", "5m")
    assert "probing ws://127.0.0.1:1/: 5 min if nothing is cut, at most 20 min 35 s" in result.stderr


def test_help_tells_what_json_has():
    text = run("--help").output
    for word in ("--max", "--header", "--subprotocol", "--origin", "--json", "cutoff_seconds", "ping_after_seconds"):
        assert word in text


def printed(capsys, report: Report) -> str:
    _print(report)
    return capsys.readouterr().out


def test_a_report(capsys):
    rung = Rung(60.0, "ladder")
    outcomes = [
        (1, rung, Survived(57.0, 57.1)),
        (1, rung, Cut(60.01, 60.01, "fin", True)),
        (1, rung, Cut(60.02, 60.02, "fin", True)),
        (1, rung, Cut(80.0, 80.0, "reset", False)),
        (1, rung, Cut(90.0, 90.0, "silence", False)),
        (1, rung, Cut(95.0, 95.0, "close_frame", True, 1001)),
        (1, rung, Talked(20.0, 70.0)),
        (1, rung, Failed("\x1b[31mno[/] [bold]")),
        (1, Rung(61.0, "busy", 20.0), Survived(20.0, 61.0)),
    ]
    verdict = Verdict(59.6, 60.1, "fin", True, confirmed=True)
    path = Path("ws://example.com/", server=("nginx",))
    out = printed(capsys, Report(path, verdict, 300.0, outcomes=outcomes))
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0].startswith(
        "silence is cut between 59 s and 61 s, by a FIN without Close; nginx's `proxy_read_timeout`"
    )
    assert lines[1] == r"- 1 tunnel could not be used: \x1b[31mno[/] [bold]"
    assert lines[2:] == [
        "",
        "SILENCE   TUNNELS",
        "   20 s   1 interrupted by what the server sent",
        "   57 s   1 alive: the Ping was answered",
        "   60 s   2 ended by FIN",
        "   80 s   1 ended by RST in answer to the Ping",
        "   90 s   1 dead: the Ping was not answered",
        "   95 s   1 ended by Close 1001",
    ]


def test_a_report_without_a_single_tunnel(capsys):
    report = Report(Path("ws://example.com/"), Verdict(0.0), 300.0, interrupted=True)
    assert printed(capsys, report).splitlines() == [
        "nothing is known yet",
        "- interrupted: this is what was known by then",
    ]
    assert json.dumps(report.as_json())
