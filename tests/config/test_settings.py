"""What workers are sent of a configuration: everything that is theirs, with what several keys say together settled."""

import subprocess
import sys

import pytest

from gateway.config import schema, settings
from gateway.config.settings import AccessLog, KeepaliveSide, Settings, UpstreamTls
from gateway.processes.control.messages import Configure
from gateway.processes.control.wire import pack
from gateway.routing.registry import Registry
from tests.support.certificates import Authority

from ..routing.tables import config_of

OF_THE_SUPERVISOR = {"workers", "max_tunnels", "admin"}
GENERAL = {"timeouts", "keepalive"}
"""What routes override: they have what applies to them."""


def test_whatever_the_file_may_say_is_the_supervisors_or_is_sent():
    assert set(schema.Config.model_fields) - OF_THE_SUPERVISOR - GENERAL | {
        "request_head",
        "http_idle",
        "credentials",
    } == set(Settings._fields)


@pytest.mark.parametrize(
    ("section", "but", "instead"),
    [
        ("Listener", set(), set()),
        ("AccessLog", set(), set()),
        ("Drain", set(), set()),
        ("Heads", set(), set()),
        ("Timeouts", {"request_head", "http_idle"}, set()),
        ("Pool", set(), set()),
        ("KeepaliveSide", set(), set()),
        ("Backend", set(), set()),
        ("UpstreamTls", set(), set()),
        ("ListenerTls", set(), set()),
        ("Upstream", {"on_loss", "discover", "rebalance", "health_check", "eject"}, {"loss_close_code", "ejects"}),
        ("Match", set(), set()),
        (
            "Route",
            {"keepalive", "origins", "allow", "deny", "auth", "upstream", "redirect", "respond"},
            {"client", "backend", "access", "answer"},
        ),
        ("Share", set(), set()),
        ("Rewrite", set(), set()),
        ("Auth", set(), set()),
        ("Jwt", {"ca", "refresh", "at_expiry"}, {"expiry_code", "expiry_spread"}),
        ("Basic", set(), set()),
        ("ForwardAuth", set(), set()),
    ],
)
def test_every_key_of_a_section_is_sent(section, but, instead):
    assert set(getattr(schema, section).model_fields) - but | instead == set(getattr(settings, section)._fields)


def test_a_route_has_what_applies_to_it():
    sent = Settings.of(
        config_of(
            [
                {
                    "timeouts": {"idle": "1h", "request_body": "7s"},
                    "keepalive": {"client": {"ping_after": "9s"}, "backend": "off"},
                },
                {"upgrades": ["websocket", "MQTT"], "http": "reject", "match": {"path": "/x/", "hosts": ["a.example"]}},
            ],
            timeouts={"connect": "2s", "request_head": "3s", "http_idle": "9s", "response": "off"},
            keepalive={"client": {"pong_timeout": "7s"}, "backend": {"ping_after": "adaptive", "min": "2s"}},
        )
    )
    own, general = sent.routes
    assert (own.timeouts.connect, own.timeouts.idle, sent.request_head) == (2.0, 3600.0, 3.0)
    assert (own.timeouts.request_body, own.timeouts.response, sent.http_idle) == (7.0, None, 9.0)
    assert general.timeouts == own.timeouts._replace(idle=None, request_body=60.0)
    assert own.client == KeepaliveSide(ping_after=9.0, min=5.0, max=240.0, pong_timeout=7.0)
    assert own.backend == KeepaliveSide(ping_after=None, min=5.0, max=240.0, pong_timeout=20.0)
    assert general.client == own.client._replace(ping_after=25.0)
    assert general.backend == KeepaliveSide(ping_after="adaptive", min=2.0, max=240.0, pong_timeout=20.0)
    assert general.match == settings.Match(("a.example",), "/x/", None, None, ())
    assert (general.upgrades, general.http) == (("websocket", "mqtt"), "reject")


def test_upstreams_and_the_rest(tmp_path):
    authority = Authority(tmp_path)
    own = authority.issue("gateway", client=True)
    both = tmp_path / "both.pem"
    both.write_bytes(own.cert.read_bytes() + own.key.read_bytes())
    sent = Settings.of(
        config_of(
            [{}],
            {
                "chat": {"backends": ["a:1", {"address": "unix:/b", "weight": 3}], "on_loss": "off"},
                "other": {
                    "backends": ["a:1"],
                    "balance": "round_robin",
                    "on_loss": {"close_code": 4000},
                    "pool": "off",
                    "tls": {
                        "ca": str(authority.ca),
                        "server_name": "A.example",
                        "cert": str(both),
                    },
                },
            },
            trusted_proxies=["10.0.0.0/8"],
            access_log={"path": "off", "format": "text"},
            drain={"period": "1s", "close_code": 1001},
            heads={"max_size": "16KiB", "max_fields": 50},
            underscores="reject",
        )
    )
    chat, other = sent.upstreams.values()
    assert [(str(backend.address), backend.weight) for backend in chat.backends] == [("a:1", 1), ("unix:/b", 3)]
    assert (chat.balance, chat.connect_retries, chat.loss_close_code) == ("least_tunnels", 2, None)
    assert (other.balance, other.loss_close_code) == ("round_robin", 4000)
    assert [str(network) for network in sent.trusted_proxies] == ["10.0.0.0/8"]
    assert sent.access_log == AccessLog(None, "text")
    assert sent.drain == (1.0, 1001)
    assert (chat.pool, other.pool) == ((15.0, 64), None)
    assert (chat.tls, other.tls) == (
        None,
        UpstreamTls(authority.ca.read_text(), "a.example", both.read_text(), None, True),
    )
    assert (sent.heads, sent.underscores) == ((16384, 50), "reject")


def test_it_is_understood_without_pydantic():
    sent = Configure(1, Settings.of(config_of([{"match": {"subprotocols": ["v1"]}}])), Registry(9, 9))
    code = (
        "import sys; from gateway.processes.control.wire import unpack; unpack(sys.stdin.buffer.read());"
        " assert not {'pydantic', 'pickle'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], input=pack(sent), check=True)
