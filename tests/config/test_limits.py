"""Limits of a route: what may be written, and what is reported of what may not."""

import pytest

from gateway.config.settings import Rate, RouteLimits

from .files import complaints, config_of, route


def limits(text):
    return RouteLimits.of(config_of(route(f"limits: {text}")).routes[0].limits)


def test_all_four():
    text = """{handshakes_per_second: {per_client: 5, burst: 20}, tunnels_per_client: 50, frame_size: 1MiB,
    messages_per_second: {per_tunnel: 0.5}}"""
    assert limits(text) == RouteLimits(Rate(5.0, 20), 50, 1 << 20, Rate(0.5, 1))


def test_none_is_no_limit():
    assert limits("{}") is None


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "limits: expected a value, found nothing (a value, or no `limits`)"),
        ("{tunnels_per_client: }", "tunnels_per_client: expected a value, found nothing"),
        ("{handshakes_per_second: {per_client: 5, burst: }}", "burst: expected a value, found nothing"),
        ("{tunnels_per_client: 0}", "0 is too small"),
        ("{tunnels_per_client: true}", "expected a whole number"),
        ("{frame_size: 12B}", "12B is too small (at least 125B)"),
        ("{frame_size: 1MB}", "(1MiB)"),
        ("{handshakes_per_second: 5}", "expected a mapping"),
        ("{handshakes_per_second: {burst: 5}}", "per_client: this key is required"),
        ("{handshakes_per_second: {per_client: .inf}}", "inf is not a number of events"),
        ("{handshakes_per_second: {per_client: .nan}}", "nan is not a number of events"),
        ("{handshakes_per_second: {per_client: 0}}", "without this key there is no limit"),
        ("{messages_per_second: {per_tunnel: 1000000000}}", "is too large"),
        ("{messages_per_second: {per_tunnel: five}}", "expected a number for each second"),
        ("{bytes_per_second: 5}", "unknown key"),
    ],
)
def test_mistakes(written, message):
    (complaint,) = complaints(route(f"limits: {written}"))
    assert message in complaint
