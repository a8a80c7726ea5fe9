"""What is on the wire in this version, for ``test_golden.py``: ``python -m tests.processes.control.golden`` writes it.

It writes nothing while the version that is in the file says something else on the wire: count ``VERSION`` up first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from gateway.config.address import Address
from gateway.config.settings import Backend, Certificate, Listener, ListenerTls, Settings, UpstreamTls
from gateway.processes.control import messages
from gateway.processes.control.messages import Message
from gateway.processes.control.wire import pack
from gateway.routing.registry import Registry
from gateway.tunnels.learning.learning import State

from ...routing.tables import config_of

FILE = Path(__file__).with_name("golden.json")


def settings() -> Settings:
    """With something in every field."""
    return Settings.of(
        config_of(
            [
                {
                    "match": {"hosts": ["a.example"], "path": "/ws", "subprotocols": ["mqtt"]},
                    "upgrades": ["websocket", "tls/1.0"],
                    "timeouts": {"idle": "1h"},
                    "keepalive": {"client": "off"},
                },
                {"match": {"path_regex": "^/x"}, "upstream": "quiet", "http": "reject"},
            ],
            {
                "chat": {"backends": ["127.0.0.1:9001", {"address": "[::1]:9002", "weight": 2, "max_tunnels": 9}]},
                "hashed": {"backends": ["127.0.0.1:1"], "balance": "consistent_hash", "hash_on": "query:room"},
                "sticky": {
                    "backends": [{"address": "127.0.0.1:1", "drain": True}, {"address": "127.0.0.1:2"}],
                    "balance": "sticky",
                    "sticky": {"secret": "sixteen letters!", "ttl": "1h"},
                    "slow_start": "off",
                },
                "quiet": {
                    "backends": ["unix:/run/quiet.sock"],
                    "balance": "round_robin",
                    "on_loss": "off",
                    "proxy_protocol": "v2",
                },
                "sealed": {"backends": ["chat.internal:9001"], "tls": {"server_name": "chat.internal"}},
            },
            trusted_proxies=["10.0.0.0/8", "2001:db8::/32"],
        )
    )


TLS = ListenerTls((Certificate(("a.example", "*.a.example"), "ec", "chain", "key"),), "1.2", "CAs", True)


def samples() -> list[Message]:
    """One of each message."""
    drain = messages.Drain(30.0, 1012)
    state = State(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    registry = Registry(9, 9, ["r0", "r1"], [("chat", "127.0.0.1:9001")], [1])
    return [
        messages.Listen(Address("::1", 8080), messages.NO_DESCRIPTOR),
        messages.Unlisten(Address(path="/run/gateway.sock")),
        messages.Configure(5, settings(), registry, frozenset((3, 1)), drain, True),
        messages.Resolved({"chat.internal": ("192.0.2.1", "fe80::1%2")}),
        drain,
        messages.DrainBackends(frozenset((1, 3)), 30.0, 1012),
        messages.UseBackends(
            {"chat": (Backend(Address("127.0.0.1", 9001), 2, 9, True, False),)}, registry, frozenset((3, 1))
        ),
        messages.Rebalance("chat", ((5, 1_000_000_000), (6, 2_000_000_000)), 1012, 3_000_000_000),
        messages.UseCertificates(
            (Listener(Address("::1", 8443), TLS, True), Listener(Address("::1", 8080), None, False)),
            {"sealed": UpstreamTls("CAs", "chat.internal", "certificate", "key", True)},
        ),
        messages.UseCredentials({"/etc/gateway/users": "ann:hash", "https://auth.example/keys": '{"keys": []}'}),
        messages.KeysFetched("https://auth.example/keys"),
        messages.KeepBackends(frozenset({2})),
        messages.Stop(),
        messages.ReopenLogs(),
        messages.Learned([((1, 0, 7), state)]),
        messages.Release(200),
        messages.TakeOver(messages.NO_DESCRIPTOR),
        messages.Accept(),
        messages.Forget((3,)),
        messages.Resume(),
        messages.Retire(),
        messages.Configured(3),
        messages.Failed(4, "the access log cannot be opened: é"),
        messages.KeysWanted("https://auth.example/keys"),
        messages.Failures({3: 2}),
        messages.Drained(),
        messages.Released(messages.NO_DESCRIPTOR),
        messages.TakenOver((1, 1 << 48 | 2)),
        messages.Retired(),
    ]


def said() -> dict[str, Any]:
    """Fields of every message, and of whatever they hold, and samples as they are on the wire."""
    fields: dict[str, list[str]] = {}
    for kind in get_args(Message):
        _add_fields(kind, fields)
    return {"fields": dict(sorted(fields.items())), "messages": [pack(each).decode("ascii") for each in samples()]}


def _add_fields(annotation: Any, found: dict[str, list[str]]) -> None:
    for inner in get_args(annotation):
        _add_fields(inner, found)
    if isinstance(annotation, type) and annotation.__module__.startswith("gateway."):
        name = f"{annotation.__module__}.{annotation.__name__}"
        if name not in found:
            # As in the source: how Python shows a type differs from version to version.
            written = {
                field: getattr(kind, "__forward_arg__", kind) for field, kind in annotation.__annotations__.items()
            }
            found[name] = [f"{field}: {kind}" for field, kind in written.items()]
            for kind in get_type_hints(annotation).values():
                _add_fields(kind, found)


def main() -> int:
    """:returns: the exit status"""
    now = {"version": messages.VERSION, **said()}
    before = json.loads(FILE.read_text()) if FILE.exists() else {"version": 0}
    if before["version"] == now["version"] and before != now:
        print("the wire has changed: count VERSION up in gateway/processes/control/messages.py first", file=sys.stderr)
        return 1
    FILE.write_text(json.dumps(now, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
