"""What a probe says, and what it prints for scripts."""

import json
from dataclasses import replace

import pytest

from gateway.probe.outcomes import Cut, Failed, Rung, Survived, Talked
from gateway.probe.planner import Verdict
from gateway.probe.report import Path, Report

PATH = Path("ws://example.com/", "192.0.2.1:80", rtt_seconds=0.0123456789)
NGINX = Verdict(59.63, 60.07, "fin", True, confirmed=True)
RUNG = Rung(5.0, "ladder")


def report(verdict: Verdict, path: Path = PATH, **fields) -> Report:
    return Report(path, verdict, 300.0, **fields)


# --- people -------------------------------------------------------------------------------------------------------


def test_a_cutoff_with_a_known_default():
    assert report(NGINX, replace(PATH, server=("nginx",))).sentence() == (
        "silence is cut between 59 s and 61 s, by a FIN without Close; nginx's `proxy_read_timeout` is 60 s by default"
        ", or AWS Application Load Balancer's `idle timeout` is 60 s by default; ping every 25–45 s"  # noqa: RUF001
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ended_by": "fin", "by_itself": False}, "silently, and a FIN without Close answers what is sent later"),
        ({"ended_by": "reset", "by_itself": True}, "by an RST"),
        ({"ended_by": "reset", "by_itself": False}, "silently, and an RST answers what is sent later"),
        ({"ended_by": "silence", "by_itself": False}, "silently: what is sent later gets no answer"),
        ({"ended_by": "close_frame", "close_code": 1001}, "by a Close frame with code 1001"),
        (
            {"ended_by": "close_frame", "close_code": 4000, "close_reason": "idle"},
            "by a Close frame with code 4000 (idle)",
        ),
    ],
)
def test_manners(fields, said):
    sentence = report(replace(NGINX, **fields)).sentence()
    assert sentence.startswith(f"silence is cut between 59 s and 61 s, {said}; ")


@pytest.mark.parametrize(
    ("verdict", "server", "said"),
    [
        (Verdict(4.7, 5.1, "fin", True), (), "no known default is that long"),
        (
            Verdict(4.7, 5.1, "fin", True),
            ("nginx/1.22.1",),
            "no known default is that long; the answer names nginx, whose `proxy_read_timeout` may be that",
        ),
        (
            Verdict(4.7, 5.1, "fin", True),
            ("cloudflare",),
            "no known default is that long; the answer names Cloudflare, which may be configured so",
        ),
        (Verdict(4.7, 5.1, "close_frame", True, 1001), (), "that is the server, or a proxy that speaks WebSocket"),
        (Verdict(345, 355, "reset", False), (), "AWS Network Load Balancer's `tcp.idle_timeout.seconds` is 350 s"),
    ],
)
def test_who_it_may_be(verdict, server, said):
    assert said in report(verdict, replace(PATH, server=server)).sentence()


def test_nothing_is_cut():
    assert report(Verdict(300.0, confirmed=True)).sentence() == (
        "nothing is cut by a silence of up to 5 min; ping every 2 min to 4 min"
    )


def test_a_server_that_keeps_tunnels_alive_itself():
    found = report(Verdict(20.0, confirmed=True, server_sends_every_seconds=20.0))
    assert found.sentence() == "nothing is cut by a silence of up to 20 s"
    assert list(found.notes()) == [
        "the server itself sends something at least every 20 s: no longer silence could be measured, and as long as it "
        "does, none occurs"
    ]
    assert found.as_json()["ping_after_seconds"] == 16.0


def test_tunnels_that_end_at_an_age():
    sentence = report(Verdict(29.8, 30.1, "fin", True, by_age=True, confirmed=True)).sentence()
    assert sentence == (
        "every tunnel is ended at an age between 29 s and 31 s, by a FIN without Close, even while Pings keep it busy; "
        "Google Cloud external load balancer's `backend service timeout` is 30 s by default; "
        "Pings do not help: send messages, or open a new tunnel in time"
    )


def test_a_server_that_answers_no_pings():
    found = report(Verdict(300.0, confirmed=True), replace(PATH, answers_pings=False))
    assert found.sentence() == "no tunnel was ended within 5 min of silence"
    assert any("answers no Ping" in note for note in found.notes())
    assert (found.as_json()["ping_after_seconds"], found.as_json()["tolerated_seconds"]) == (None, None)


def test_nothing_is_known_yet():
    found = report(Verdict(0.0), interrupted=True)
    assert found.sentence() == "nothing is known yet"
    assert list(found.notes()) == ["interrupted: this is what was known by then"]


def test_notes():
    verdict = replace(NGINX, confirmed=False, chance_ends=1, survivors_beyond=2, server_sends_every_seconds=25.0)
    outcomes = [(1, RUNG, Failed("429 Too Many Requests")), (1, RUNG, Survived(5.0, 5.0))]
    notes = list(report(verdict, outcomes=outcomes, slept=True).notes())
    for number, said in enumerate(
        ("not confirmed", "at least every 25 s", "1 tunnel ended earlier", "2 tunnels survived")
    ):
        assert said in notes[number]
    assert "1 tunnel could not be used: 429 Too Many Requests" in notes[4]
    assert "slept" in notes[5]
    assert not list(report(NGINX).notes())


# --- scripts ------------------------------------------------------------------------------------------------------


def test_json_of_a_cutoff():
    outcomes = [
        (1, RUNG, Survived(5.0004, 5.01)),
        (1, RUNG, Cut(60.0012, 60.3, "fin", True)),
        (1, RUNG, Talked(25.0, 75.0)),
        (2, RUNG, Failed("no")),
    ]
    found = report(NGINX, replace(PATH, server=("nginx",), subprotocol="v12.stomp"), outcomes=outcomes, rounds=2)
    answer = found.as_json()
    assert json.loads(json.dumps(answer)) == answer
    assert answer["cutoff_seconds"] == {"low": 59.63, "high": 60.07}
    assert (answer["ended_by"], answer["ends_by_itself"], answer["close_code"]) == ("fin", True, None)
    assert answer["ping_after_seconds"] == 47.7
    assert answer["lifetime_seconds"] is None
    assert answer["culprits"][0] == {
        "name": "nginx",
        "setting": "proxy_read_timeout",
        "default_seconds": 60,
        "fits": True,
    }
    assert (answer["tunnels_opened"], answer["tunnels_failed"], answer["rounds"]) == (4, 1, 2)
    assert answer["rtt_seconds"] == 0.012346
    assert [tunnel["result"] for tunnel in answer["tunnels"]] == ["survived", "fin", "server_sends", "failed"]
    assert answer["tunnels"][0]["silence_seconds"] == 5.0
    assert (answer["server"], answer["subprotocol"]) == (["nginx"], "v12.stomp")


def test_json_rounds_outward():
    assert report(replace(NGINX, low_seconds=4.789, high_seconds=5.211)).as_json()["cutoff_seconds"] == {
        "low": 4.78,
        "high": 5.22,
    }


def test_json_of_no_cutoff():
    answer = report(Verdict(300.0, confirmed=True)).as_json()
    for key in ("cutoff_seconds", "ended_by", "close_code", "ends_by_itself", "lifetime_seconds"):
        assert answer[key] is None
    assert (answer["ping_after_seconds"], answer["tolerated_seconds"]) == (240.0, 300.0)
    assert answer["culprits"] == []


def test_json_of_an_age():
    answer = report(Verdict(29.8, 30.1, "fin", True, by_age=True, confirmed=True)).as_json()
    assert answer["cutoff_seconds"] == answer["lifetime_seconds"] == {"low": 29.8, "high": 30.1}
    assert answer["ping_after_seconds"] is None


def test_no_advice_where_even_the_shortest_silence_is_cut():
    found = report(Verdict(0.0, 0.3, "fin", True))
    assert found.as_json()["ping_after_seconds"] is None
    assert "ping every" not in found.sentence()
