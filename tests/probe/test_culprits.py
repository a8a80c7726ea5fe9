"""Who is suspected of a cutoff."""

import pytest

from gateway.probe.culprits import CULPRITS, named, suspects
from gateway.probe.outcomes import EndedBy


def names_of(
    low: float, high: float, by: EndedBy, by_itself: bool, by_age: bool = False, server: str = ""
) -> list[str]:
    return [culprit.name for culprit in suspects(low, high, (by, by_itself), by_age, [server])]


@pytest.mark.parametrize(
    ("low", "high", "by", "by_itself", "expected"),
    [
        (59.6, 60.3, "fin", True, {"nginx", "AWS Application Load Balancer"}),
        (49.5, 50.2, "fin", True, {"HAProxy of Debian and Ubuntu"}),
        (54.6, 55.1, "reset", True, {"Heroku's router"}),
        (99.4, 100.2, "fin", True, {"Cloudflare", "YARP"}),
        (347, 353, "reset", False, {"AWS Network Load Balancer", "AWS NAT gateway"}),
        (236, 241, "silence", False, {"Azure Load Balancer"}),
        (236, 241, "reset", True, {"Azure Load Balancer"}),
        (299, 300.2, "fin", True, {"Envoy", "Azure Front Door"}),
        (598, 601, "close_frame", True, {"AWS API Gateway"}),
        (7360, 7480, "silence", False, {"a NAT that keeps to RFC 5382"}),
        (59.6, 60.3, "silence", False, set()),
        (4.6, 5.1, "fin", True, set()),
    ],
)
def test_defaults(low, high, by, by_itself, expected):
    assert set(names_of(low, high, by, by_itself)) == expected


def test_limits_of_age_and_of_silence_are_apart():
    assert names_of(29.8, 30.1, "fin", True, by_age=True) == ["Google Cloud external load balancer"]
    assert names_of(7195, 7205, "close_frame", True, by_age=True) == ["AWS API Gateway"]
    assert names_of(59.6, 60.3, "fin", True, by_age=True) == []


def test_whom_the_answer_names_comes_first():
    assert names_of(59.6, 60.3, "fin", True)[0] == "nginx"
    assert names_of(59.6, 60.3, "fin", True, server="awselb/2.0")[0] == "AWS Application Load Balancer"
    assert names_of(99.4, 100.2, "fin", True, server="Kestrel")[0] == "YARP"


def test_whom_the_answer_names_whatever_the_time():
    assert [each.name for each in named(("fin", True), False, ["nginx/1.22.1", "1.1 vegur"])] == [
        "nginx",
        "Heroku's router",
    ]
    assert named(("silence", False), False, ["nginx/1.22.1"]) == []


def test_sentences():
    said = {culprit.sentence for culprit in CULPRITS}
    assert "nginx's `proxy_read_timeout` is 60 s by default" in said
    assert "Cloudflare ends silent tunnels after 100 s" in said
    assert "AWS API Gateway ends any tunnel after 2 h" in said
    assert "Linux conntrack's `nf_conntrack_tcp_timeout_established` is 5 days by default" in said
