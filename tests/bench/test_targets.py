"""The benchmark's verdicts."""

import pytest

from bench.targets import Target, Verdict


@pytest.mark.parametrize(
    ("target", "measured", "met"),
    [
        (Target("gateway", "http-get", "cpu_us", "CPU", 3.0, "x nginx"), 3.0, True),
        (Target("gateway", "http-get", "cpu_us", "CPU", 3.0, "x nginx"), 3.01, False),
        (Target("gateway", "echo", "cpu_us", "CPU", 1.0, "x nginx", noise=0.1), 1.09, True),
        (Target("gateway", "echo", "cpu_us", "CPU", 1.0, "x nginx", noise=0.1), 1.11, False),
        (Target("gateway", "echo", "per_second", "trips", 5, "x nginx", at_least=True), 4.99, False),
        (Target("gateway", "echo", "per_second", "trips", 5, "x nginx", at_least=True, noise=0.1), 4.6, True),
        (Target("gateway", "echo", "per_second", "trips", 5, "x nginx", at_least=True, noise=0.1), 4.4, False),
        (Target("gateway", "echo", "per_second", "trips", 5, "x nginx"), None, False),
    ],
)
def test_a_target_is_met_up_to_its_noise(target: Target, measured: float | None, met: bool) -> None:
    assert Verdict(target, measured).met is met


def test_a_target_says_its_limit_and_what_noise_it_allows() -> None:
    target = Target("gateway", "echo", "cpu_us", "CPU", 0.82, "x nginx", noise=0.1)
    assert target.bound == "at most 0.82x nginx (noise 10%)"
    assert Verdict(target, 0.984).shortfall == "missed by 20.0%"
