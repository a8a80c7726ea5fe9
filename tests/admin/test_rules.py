"""``rules`` in ``/api/v1/status``: what routes ask of clients, how upstreams treat theirs. The CLI's words for them."""

import json

from gateway.admin.api import status
from gateway.admin.state import DiscoveryState
from gateway.cli.rules import discovery_problem, route_rules, upstream_rules

from .gateways import FakeGateway

SECRET = "a-secret-of-sixteen-characters-or-more"
CONFIG = f"""\
listen: [{{address: "127.0.0.1:8080"}}]
upstreams:
  chat:
    backends: ["127.0.0.1:9001", "127.0.0.1:9002"]
    balance: consistent_hash
    hash_on: "header:X-Room"
    slow_start: off
    health_check: {{path: "/healthz?key={SECRET}", every: 2s, on_down: drain}}
    eject: {{failures: 5, within: 20s, for: 1m}}
    rebalance: {{settle: 10s, period: 3m}}
  found: {{discover: {{dns: "chat.internal:9001"}}, health_check: tcp, balance: sticky, sticky: {{secret: "{SECRET}"}}}}
routes:
  - name: all
    match: {{path: /all}}
    upstream: chat
    origins: ["https://app.example.com", "https://*.example.com", null, none, "http://localhost"]
    allow: [10.0.0.0/8, "2001:db8::/32"]
    deny: [10.1.2.3]
    auth: {{jwt: {{secret: "{SECRET}", algorithms: [HS256]}}}}
    limits:
      handshakes_per_second: {{per_client: 2.5, burst: 10}}
      tunnels_per_client: 20
      frame_size: 64KiB
      messages_per_second: {{per_tunnel: 50}}
  - {{name: forward, match: {{path: /forward}}, upstream: found, auth: {{forward: {{url: "http://auth/?key={SECRET}"}}}}}}
  - {{name: plain, upstream: found}}
"""


def test_rules():
    gateway = FakeGateway(CONFIG)
    gateway.state.discoveries = {"found": DiscoveryState("dns chat.internal:9001", "no\x1b answer", None)}
    answer = status(gateway.state)
    routes = {route["name"]: route for route in answer["routes"]}
    assert routes["all"]["rules"] == {
        "origins": ["https://app.example.com", "https://*.example.com", "null", "none", "http://localhost"],
        "allow": ["10.0.0.0/8", "2001:db8::/32"],
        "deny": ["10.1.2.3/32"],
        "auth": "jwt",
        "limits": {
            "handshakes_per_second": {"per_second": 2.5, "burst": 10},
            "tunnels_per_client": 20,
            "frame_size": 65536,
            "messages_per_second": {"per_second": 50.0, "burst": 50},
        },
    }
    assert routes["forward"]["rules"]["auth"] == "forward"
    assert routes["plain"]["rules"] == {"origins": [], "allow": [], "deny": [], "auth": None, "limits": None}
    assert [upstream["rules"] for upstream in answer["upstreams"]] == [
        {
            "hash_on": "header:X-Room",
            "slow_start": None,
            "health_check": {"kind": "path", "target": "/healthz", "every": 2.0, "on_down": "drain"},
            "eject": {"failures": 5, "within": 20.0, "for": 60.0},
            "rebalance": {"settle": 10.0, "period": 180.0},
        },
        {
            "hash_on": None,
            "slow_start": 30.0,
            "health_check": {"kind": "tcp", "target": None, "every": 5.0, "on_down": "keep"},
            "eject": None,
            "rebalance": None,
        },
    ]
    assert SECRET not in json.dumps(answer)
    assert [route_rules(route) for route in answer["routes"]] == [
        "auth jwt; origins https://app.example.com, https://*.example.com, null, none and 1 more;"
        " allow 10.0.0.0/8, 2001:db8::/32; deny 10.1.2.3/32; 2.5 handshakes/s per client (burst 10);"
        " 50 messages/s per tunnel; 20 tunnels per client; frames up to 64.0 KiB",
        "auth forward",
        "",
    ]
    assert [upstream_rules(upstream) for upstream in answer["upstreams"]] == [
        "consistent_hash on header:X-Room; checked by path /healthz every 2s, drained when down;"
        " ejected for 1m after 5 failures within 20s; rebalanced over 3m",
        "sticky; checked by tcp every 5s; found by dns chat.internal:9001",
    ]
    assert [discovery_problem(upstream) for upstream in answer["upstreams"]] == [None, "no\x1b answer"]


def test_an_older_gateway_says_nothing_of_rules():
    answer = status(FakeGateway().state)
    for each in (*answer["routes"], *answer["upstreams"]):
        del each["rules"]
    assert route_rules(answer["routes"][0]) == ""
    assert upstream_rules(answer["upstreams"][0]) == "round_robin"
