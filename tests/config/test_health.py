"""Health checks and ejection: what may be written, and what is reported of what may not."""

import pytest

from gateway.config.schema import Upstream

from .files import MINIMAL, complaints, config_of


def with_chat(body):
    return MINIMAL.replace('chat: {backends: ["127.0.0.1:9001"]}', f'chat: {{backends: ["127.0.0.1:9001"], {body}}}')


def chat(body) -> Upstream:
    return config_of(with_chat(body)).upstreams["chat"]


def complaint(body):
    (line,) = complaints(with_chat(body))
    return line.split(": ", 1)[1]


def test_nothing_is_checked_by_default():
    assert (chat("connect_retries: 2").health_check, chat("connect_retries: 2").eject) == (None, None)
    assert (chat("health_check: off").health_check, chat("eject: off").eject) == (None, None)


def test_what_the_contract_has():
    check = chat(
        "health_check: {path: /healthz, every: 5s, timeout: 2s, healthy_after: 2, unhealthy_after: 3}"
    ).health_check
    assert check == chat("health_check: {path: /healthz}").health_check
    assert (check.kind, check.target, check.every, check.timeout) == ("path", "/healthz", 5.0, 2.0)
    assert (check.healthy_after, check.unhealthy_after, check.status, check.on_down) == (2, 3, ((200, 399),), "keep")
    eject = chat("eject: {failures: 3, within: 10s, for: 30s}").eject
    assert (eject.failures, eject.within, eject.for_) == (3, 10.0, 30.0)
    assert eject == chat("eject: true").eject == chat("eject: {}").eject


@pytest.mark.parametrize(
    ("check", "kind", "target"),
    [
        ("tcp", "tcp", ""),
        ("{tcp: true, every: 1s, timeout: 1s}", "tcp", ""),
        ("websocket", "websocket", "/"),
        ("{websocket: true}", "websocket", "/"),
        ("{websocket: '/ws?check=1', on_down: drain}", "websocket", "/ws?check=1"),
        ("{path: '/healthz?full=1', body: ready, host: a.internal}", "path", "/healthz?full=1"),
    ],
)
def test_kinds(check, kind, target):
    found = chat(f"health_check: {check}").health_check
    assert (found.kind, found.target) == (kind, target)


@pytest.mark.parametrize(
    ("status", "ranges"),
    [
        ("200", ((200, 200),)),
        ("200-299", ((200, 299),)),
        ("[200, 204, 300-302]", ((200, 200), (204, 204), (300, 302))),
    ],
)
def test_statuses(status, ranges):
    assert chat(f"health_check: {{path: /, status: {status}}}").health_check.status == ranges


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("health_check: {every: 1s, timeout: 1s}", "nothing says how to check (one of `path`, `tcp` and `websocket`)"),
        ("health_check: {path: /, tcp: true}", "tcp: `path` says already how to check"),
        ("health_check: udp", "expected a mapping, tcp, websocket or off"),
        ("health_check: {tcp: true, status: 200}", "status: has no effect with `tcp`"),
        ("health_check: {websocket: /, body: x}", "body: has no effect with `websocket`"),
        ("health_check: {tcp: true, host: x}", "host: has no effect with `tcp`"),
        ("health_check: {path: healthz}", '"healthz" is not a path'),
        ("health_check: {path: '/a b'}", '"/a b" is not a path'),
        ('health_check: {path: "/a\\r\\nX: y"}', "is not a path"),
        ('health_check: {path: /, host: "a\\r\\nX: y"}', "expected a host"),
        ("health_check: {path: /, status: ok}", 'expected statuses, found the text "ok"'),
        ("health_check: {path: /, status: 101}", "no range of final statuses"),
        ("health_check: {path: /, status: 300-200}", "no range of final statuses"),
        ("health_check: {path: /, status: []}", "is empty"),
        ("health_check: {path: /, body: ''}", "expected text that the answer has"),
        ("health_check: {path: /, every: 1ms}", "at least 100ms"),
        ("health_check: {path: /, healthy_after: 0}", "0 is too small"),
        ("health_check: {path: /, on_down: close}", "is not a choice (choices: keep, drain)"),
        ("health_check: {tcp: false}", "false is not a choice (choices: true)"),
        ("health_check: {path: /, interval: 5s}", "unknown key"),
        ("eject: 3", "expected a mapping, true or off, found the number 3"),
        ("eject: {failures: 0}", "0 is too small"),
        ("eject: {for: off}", "cannot be off"),
        ("eject: {times: 3}", "unknown key"),
    ],
)
def test_mistakes(body, what):
    assert what in complaint(body)
