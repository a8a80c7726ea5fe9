"""What a configuration that can be used amounts to."""

import os
import pickle
import subprocess
import sys
from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from gateway.config import (
    AccessLog,
    Address,
    Admin,
    Backend,
    Config,
    Drain,
    Heads,
    KeepaliveSide,
    Listener,
    Match,
    OnLoss,
    Pool,
    Timeouts,
    Upstream,
)
from gateway.config.settings import Settings

from .files import CONTRACT, MINIMAL, complaints, config_of, route, with_top


def test_every_default():
    config = config_of(MINIMAL)
    assert config.workers == min(len(os.sched_getaffinity(0)), 64)
    assert config.max_tunnels == "auto"
    assert config.listen == (Listener(address="0.0.0.0:8080"),)
    assert config.trusted_proxies == ()
    assert config.admin == Admin(address="127.0.0.1:9100")
    assert config.access_log == AccessLog(path="-", format="json")
    assert config.timeouts.model_dump() == {
        "request_head": 10.0,
        "connect": 5.0,
        "handshake": 10.0,
        "write_stall": 60.0,
        "close": 10.0,
        "request_body": 60.0,
        "response": 60.0,
        "http_idle": 75.0,
        "idle": None,
        "max_lifetime": None,
    }
    side = {"ping_after": 25.0, "min": 5.0, "max": 240.0, "pong_timeout": 20.0}
    assert config.keepalive.model_dump() == {"client": side, "backend": side}
    assert config.drain == Drain(period="30s", close_code=1012)
    assert config.heads == Heads(max_size="32KiB", max_fields=200)
    assert (config.heads.max_size, config.underscores) == (32768, "drop")
    assert config.upstreams["chat"].pool == Pool(idle="15s", size=64)
    assert config.upstreams["chat"].on_loss == OnLoss(close_code=1012)
    assert config.upstreams == {
        "chat": Upstream(backends=["127.0.0.1:9001"], balance="least_tunnels", connect_retries=2)
    }
    assert config.upstreams["chat"].backends == (Backend(address="127.0.0.1:9001", weight=1),)
    (only,) = config.routes
    assert only.match == Match()
    assert (only.match.hosts, only.match.subprotocols) == ((), ())
    assert (only.match.path, only.match.path_exact, only.match.path_regex) == (None, None, None)
    assert only.upgrades == ("websocket",)
    assert only.http == "proxy"


def test_the_example_of_the_contract():
    config = config_of(CONTRACT)
    assert [str(listener.address) for listener in config.listen] == ["0.0.0.0:8080", "0.0.0.0:8443"]
    assert config.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert [(str(backend.address), backend.weight) for backend in config.upstreams["chat"].backends] == [
        ("127.0.0.1:9001", 1),
        ("chat2.internal:9001", 2),
    ]
    assert config.keepalive.client == KeepaliveSide(ping_after="25s", pong_timeout="20s")
    assert config.keepalive.backend == KeepaliveSide(ping_after="adaptive", min="5s", max="4m", pong_timeout="20s")
    (only,) = config.routes
    assert only.match.hosts == ("chat.example.com", "*.example.com")
    assert only.match.path == "/ws/"
    assert only.match.subprotocols == ("v10.stomp", "v11.stomp")


def test_a_route_overrides_the_timeouts_it_names_and_no_others():
    config = config_of(
        "timeouts: {connect: 1s, idle: 5m}\n"
        + route('timeouts: {idle: "off", handshake: 1.5s}').replace("name: chat", "name: own")
        + "  - {name: general, upstream: chat}\n"
    )
    own, general = config.routes
    assert config.timeouts_of(general) == config.timeouts
    assert config.timeouts_of(own) == Timeouts(connect="1s", handshake="1500ms", idle="off")
    assert config.timeouts.idle == 300.0


@pytest.mark.parametrize("spelling", ["off", "Off", "OFF", '"off"', "'off'", "false"])
def test_off_may_be_bare_or_quoted(spelling):
    config = config_of(with_top(f"timeouts: {{idle: {spelling}}}\naccess_log: {{path: {spelling}}}"))
    assert config.timeouts.idle is None
    assert config.access_log.path is None


@pytest.mark.parametrize("spelling", ["off", '"off"'])
def test_the_access_log_as_a_whole_may_be_off(spelling):
    assert config_of(with_top(f"access_log: {spelling}")).access_log.path is None


@pytest.mark.parametrize("match", ["match: {}", "match:", "match: ~"])
def test_a_match_with_nothing_in_it_is_one_that_matches_everything(match):
    assert config_of(route(match)).routes[0].match == Match()


@pytest.mark.parametrize("spelling", ["off", '"off"', "false"])
def test_clients_need_not_be_told_of_a_loss(spelling):
    config = config_of(MINIMAL.replace('9001"]', f'9001"], on_loss: {spelling}'))
    assert config.upstreams["chat"].on_loss is None


@pytest.mark.parametrize("spelling", ["off", '"off"', "false"])
def test_a_pool_may_be_off(spelling):
    config = config_of(MINIMAL.replace('9001"]', f'9001"], pool: {spelling}'))
    assert config.upstreams["chat"].pool is None


def test_a_pool_may_be_set_in_part():
    config = config_of(MINIMAL.replace('9001"]', '9001"], pool: {size: 8}'))
    assert config.upstreams["chat"].pool == Pool(idle="15s", size=8)


def test_limits_of_heads():
    config = config_of(with_top("heads: {max_size: 16KiB}\nunderscores: pass"))
    assert (config.heads.max_size, config.heads.max_fields, config.underscores) == (16384, 200, "pass")


def test_a_drain_may_be_paced_and_coded():
    assert config_of(with_top("drain: {period: 2m, close_code: 4000}")).drain == Drain(period="120s", close_code=4000)


def test_workers_may_be_given():
    assert config_of(with_top("workers: 3")).workers == 3


def test_trusted_proxies_may_be_single_addresses():
    config = config_of(with_top('trusted_proxies: [192.0.2.7, "2001:db8::/32", "::1"]'))
    assert [str(network) for network in config.trusted_proxies] == [
        "192.0.2.7/32",
        "2001:db8::/32",
        "::1/128",
    ]


def test_upgrades_are_compared_in_lower_case_and_may_have_versions():
    assert config_of(route("upgrades: [WebSocket, SPDY/3.1, tcp]")).routes[0].upgrades == (
        "websocket",
        "spdy/3.1",
        "tcp",
    )


def test_a_configuration_reaches_a_worker_whole():
    config = config_of(CONTRACT)
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_pickled_route_still_knows_what_it_overrides():
    config = pickle.loads(pickle.dumps(config_of(route("timeouts: {connect: 1s}"))))
    assert config.timeouts_of(config.routes[0]).connect == 1.0
    assert config.timeouts_of(config.routes[0]).handshake == 10.0


def test_a_configuration_cannot_be_changed():
    config = config_of(MINIMAL)
    with pytest.raises(ValidationError):
        config.max_tunnels = 5


def test_a_worker_gets_along_without_yaml(tmp_path):
    pickled = tmp_path / "config"
    pickled.write_bytes(pickle.dumps(config_of(CONTRACT)))
    code = (
        "import pickle, sys; config = pickle.load(open(sys.argv[1], 'rb')); "
        "print(config.routes[0].name, sorted({'yaml', 'gateway.config.loader'} & set(sys.modules)))"
    )
    path = os.pathsep.join(filter(None, sys.path))
    result = subprocess.run(
        [sys.executable, "-c", code, pickled],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert result.stdout == "chat []\n"


def test_code_may_build_what_files_hold():
    config = Config(
        listen=[Listener(address=Address(host="127.0.0.1", port=8080))],
        upstreams={"chat": Upstream(backends=[Backend(address=Address(path="/run/chat.sock"))])},
        routes=[{"name": "chat", "upstream": "chat"}],
        trusted_proxies=[ip_network("10.0.0.0/8")],
    )
    assert config.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert str(config.upstreams["chat"].backends[0].address) == "unix:/run/chat.sock"
    with pytest.raises(ValidationError, match="there is no upstream"):
        Config(listen=config.listen, upstreams={"other": config.upstreams["chat"]}, routes=config.routes)


def test_a_listener_may_take_proxy_headers():
    config = config_of(CONTRACT)
    assert [listener.proxy_protocol for listener in config.listen] == [False, True]
    assert config.upstreams["chat"].proxy_protocol == "v2"
    text = MINIMAL.replace('"0.0.0.0:8080"', '"unix:/run/x", proxy_protocol: true').replace(
        '9001"]', '9001"], proxy_protocol: v1'
    )
    sent = Settings.of(config_of(text))
    assert [listener.proxy_protocol for listener in sent.listen] == [True]
    assert sent.upstreams["chat"].proxy_protocol == "v1"


@pytest.mark.parametrize("spelling", ["off", '"off"', "false"])
def test_proxy_headers_toward_backends_may_be_off(spelling):
    config = config_of(MINIMAL.replace('9001"]', f'9001"], proxy_protocol: {spelling}'))
    assert config.upstreams["chat"].proxy_protocol is None


NOBODY = "a PROXY header is believed from trusted proxies only, and there are none (list the load balancers in"


@pytest.mark.parametrize(
    ("listener", "proxies", "complaint"),
    [
        (
            '{address: "0.0.0.0:80", proxy_protocol: true}',
            "",
            f"1:50: listen[0].proxy_protocol: {NOBODY} `trusted_proxies`)",
        ),
        (
            '{address: "0.0.0.0:80", proxy_protocol: true}',
            "trusted_proxies: []",
            f"2:50: listen[0].proxy_protocol: {NOBODY} `trusted_proxies`)",
        ),
        ('{address: "0.0.0.0:80", proxy_protocol: true}', "trusted_proxies: [10.0.0.1]", None),
        ('{address: "unix:/run/x", proxy_protocol: true}', "", None),
        ('{address: "0.0.0.0:80", proxy_protocol: false}', "", None),
        (
            '{address: "0.0.0.0:80", proxy_protocol: v2}',
            "",
            '1:50: listen[0].proxy_protocol: expected true or false, found the text "v2" (without quotes)',
        ),
        (
            '{address: "0.0.0.0:80", proxy_protocol: 1}',
            "",
            "1:50: listen[0].proxy_protocol: expected true or false, found the number 1 (without quotes)",
        ),
    ],
)
def test_proxy_headers_are_believed_from_somebody(listener, proxies, complaint):
    text = MINIMAL.replace('{address: "0.0.0.0:8080"}', listener)
    found = complaints(f"{proxies}\n{text}" if proxies else text)
    assert found == ([f"gateway.yaml:{complaint}"] if complaint else [])


@pytest.mark.parametrize("value", ["v3", "2", "true"])
def test_the_versions_of_proxy_headers(value):
    (complaint,) = complaints(MINIMAL.replace('9001"]', f'9001"], proxy_protocol: {value}'))
    assert complaint.endswith("is not a choice (choices: v1, v2)")
