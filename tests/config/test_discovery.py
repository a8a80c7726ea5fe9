"""Where backends are found: the `discover` of an upstream, and files that list targets."""

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, parse
from gateway.config.certificates import Certificates
from gateway.config.doubts import doubts
from gateway.config.errors import BadValue
from gateway.config.settings import Settings
from gateway.config.settings_balancing import Backend
from gateway.config.targets import parse_targets, read_targets

from .files import MINIMAL, complaints


def with_discover(discover: str, more: str = "") -> str:
    return MINIMAL.replace('{backends: ["127.0.0.1:9001"]}', f"{{discover: {discover}{more}}}")


def config_of(discover: str, more: str = "") -> Config:
    return parse(with_discover(discover, more), "gateway.yaml", {})


def test_sources():
    found = config_of("{dns: Chat.Internal:9001, every: 5s, server: 10.0.0.2}").upstreams["chat"]
    assert found.backends == ()
    assert found.discover is not None
    assert (str(found.discover.dns), found.discover.every, found.discover.on_gone) == ("chat.internal:9001", 5, "drain")
    assert str(found.discover.server) == "10.0.0.2:53"
    found = config_of("{srv: _chat._tcp.internal, server: '2001:db8::1', on_gone: keep}").upstreams["chat"]
    assert found.discover is not None
    assert (found.discover.srv, found.discover.every) == ("_chat._tcp.internal", 10)
    assert str(found.discover.server) == "[2001:db8::1]:53"
    found = config_of("{file: targets.json}", ", backends: ['127.0.0.1:1']").upstreams["chat"]
    assert found.discover is not None
    assert found.discover.file == os.path.abspath("targets.json")
    assert [str(backend.address) for backend in found.backends] == ["127.0.0.1:1"]


@pytest.mark.parametrize("server", ["127.0.0.1:5300", "[::1]:5300", "[::1]"])
def test_name_servers(server):
    found = config_of(f"{{dns: 'a:1', server: '{server}'}}").upstreams["chat"].discover
    assert found is not None
    assert str(found.server) == (server if server.endswith("5300") else "[::1]:53")


@pytest.mark.parametrize(
    ("discover", "key", "what"),
    [
        ("{}", "", "no source is given (one of `dns`, `srv` and `file`)"),
        ("{dns: 'a:1', srv: b}", ".srv", "there is `dns` already (one of"),
        ("{dns: '10.0.0.1:9001'}", ".dns", "10.0.0.1:9001 is not a name (a name and the backends' port"),
        ("{dns: 'unix:/run/x'}", ".dns", "unix:/run/x is not a name"),
        ("{dns: a}", ".dns", '"a" has no port'),
        ("{srv: '_a._tcp.b:80'}", ".srv", "has a port (none, since SRV records have it"),
        ("{srv: '1.2.3.4'}", ".srv", '"1.2.3.4" is an address'),
        ("{srv: 5}", ".srv", "expected the name of SRV records, found the number 5"),
        ("{dns: 'a:1', every: 500ms}", ".every", "500ms is too short (at least 1s"),
        ("{dns: 'a:1', server: ns.internal}", ".server", "ns.internal:53 is not an IP address"),
        ("{dns: 'a:1', server: 5}", ".server", "expected an address, found the number 5"),
        ("{file: t.json, every: 5s}", ".every", "has no effect on a file, which is looked at each second"),
        ("{file: ''}", ".file", "expected a path"),
        ("{dns: 'a:1', on_gone: close}", ".on_gone", "is not a choice (choices: drain, keep)"),
    ],
)
def test_mistakes(discover, key, what):
    (complaint,) = complaints(with_discover(discover))
    assert f": upstreams.chat.discover{key}: " in complaint
    assert what in complaint


def test_an_upstream_without_backends():
    (complaint,) = complaints(MINIMAL.replace('backends: ["127.0.0.1:9001"]', "balance: round_robin"))
    assert "upstreams.chat.backends: this key is required (add it: Servers" in complaint
    assert "or add `discover`" in complaint
    (complaint,) = complaints(MINIMAL.replace('"127.0.0.1:9001"', ""))
    assert "upstreams.chat.backends: is empty" in complaint


def test_static_backends_may_all_be_backups_of_those_that_are_found():
    assert config_of("{dns: 'a:1'}", ", backends: [{address: '127.0.0.1:1', backup: true}]")


def test_the_name_in_certificates_is_the_name_that_is_asked_for():
    config = config_of("{dns: 'chat.internal:1'}", ", tls: true")
    tls = Settings.of(config, Certificates.read(config)).upstreams["chat"].tls
    assert tls is not None
    assert tls.server_name == "chat.internal"
    (complaint,) = complaints(with_discover("{srv: _a._tcp.b}", ", tls: true"))
    assert "discover.srv: backends have no host name for their certificates (`server_name` in `tls`" in complaint
    assert config_of("{srv: _a._tcp.b}", ", tls: {server_name: b}")


# --- files ------------------------------------------------------------------------------------------------------------

TARGETS = [
    {"targets": ["10.0.0.1:9001", "chat-2.internal:9001"], "labels": {"env": "prod", "weight": "3"}},
    {"targets": ["10.0.0.3:9001", "10.0.0.1:9001"], "labels": {"__weight__": 2, "backup": "true", "max_tunnels": 9}},
    {"targets": ["[::1]:1"], "labels": {"drain": True}},
    {"targets": []},
]


def shown(backends: tuple[Backend, ...]) -> list[tuple[object, ...]]:
    return [(str(address), *rest) for address, *rest in backends]


def test_targets():
    expected = [
        ("10.0.0.1:9001", 3, None, False, False),
        ("chat-2.internal:9001", 3, None, False, False),
        ("10.0.0.3:9001", 2, 9, True, False),
        ("[::1]:1", 1, None, False, True),
    ]
    assert shown(parse_targets(json.dumps(TARGETS).encode()).backends) == expected
    as_yaml = b"- targets: ['10.0.0.1:9001']\n  labels: {weight: 3}\n- targets:\n    - 10.0.0.2:9001\n"
    assert shown(parse_targets(as_yaml).backends) == [
        ("10.0.0.1:9001", 3, None, False, False),
        ("10.0.0.2:9001", 1, None, False, False),
    ]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "expected a list, found nothing"),
        (b"[]", "lists no targets"),
        (b'[{"targets": []}]', "lists no targets"),
        (b'[{"targets": ["10.0.0.1:9001"', "is neither JSON nor YAML"),
        (b"{", "is neither JSON nor YAML"),
        (b"\xff\xfe\x00", "is neither JSON nor YAML"),
        (b"[5]", "entry 1: expected a mapping, found the number 5"),
        (b'[{"targets": []}, {"targets": "a:1"}]', "entry 2: expected a list of `targets`"),
        (b'[{"targets": ["a"]}]', 'entry 1: "a" has no port'),
        (b'[{"targets": [["a:1"]]}]', "entry 1: expected an address, found a list"),
        (b'[{"targets": ["a:1"], "labels": []}]', "lists"),
        (b'[{"targets": ["a:1"], "labels": [1]}]', "expected a mapping of `labels`"),
        (b'[{"targets": ["a:1"], "labels": {"weight": "x"}}]', 'the label weight is "x"'),
        (b'[{"targets": ["a:1"], "labels": {"weight": 0}}]', "the label weight is the number 0"),
        (b'[{"targets": ["a:1"], "labels": {"backup": "yes"}}]', "the label backup is"),
        (b"[" * 100_000, "is neither JSON nor YAML"),
        (b'[{"targets": &a ["a:1", "a:2", "a:3"]}' + b", {targets: *a}" * 30_000 + b"]", "more than 16384 targets"),
    ],
)
def test_broken_files(data, what):
    if what == "lists":
        assert parse_targets(data).backends  # no labels, written as PHP writes an empty mapping
        return
    with pytest.raises(BadValue, match=what.replace("(", r"\(")):
        parse_targets(data)


def test_what_is_wrong_is_left_out():
    groups = [
        5,
        {"targets": ["a:1", "b", None, "c:70000", "d:2"]},
        {"targets": ["e:3"], "labels": {"weight": "heavy"}},
        {"targets": ["f:4"], "labels": {"weight": "2"}},
    ]
    found = parse_targets(json.dumps(groups).encode())
    assert [str(backend.address) for backend in found.backends] == ["a:1", "d:2", "f:4"]
    assert [mistake.message for mistake in found.mistakes] == [
        "entry 1: expected a mapping, found the number 5",
        'entry 2: "b" has no port',
        "entry 2: expected an address, found nothing",
        'entry 2: "70000" is not a port',
        'entry 3: the label weight is "heavy"',
    ]


def test_check_warns_of_what_is_left_out(tmp_path):
    file = tmp_path / "targets.json"
    file.write_text('[{"targets": ["a:1", "b"]}]')
    (doubt,) = doubts(config_of(f"{{file: {file}}}"))
    assert doubt.key == ("upstreams", "chat", "discover", "file")
    assert doubt.error.message == f'warning: {file}: entry 1: "b" has no port; it is left out'


def test_a_file_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadValue, match="Not a regular file"):
        read_targets(str(tmp_path / "fifo"))
    with pytest.raises(BadValue, match="No such file"):
        read_targets(str(tmp_path / "none"))
    with pytest.raises(BadValue, match="Is a directory"):
        read_targets(str(tmp_path))


@given(st.binary(max_size=60) | st.text("[]{}:\"',-& *!targetslabe0123.\n", max_size=60).map(str.encode))
def test_any_bytes_give_targets_or_a_documented_error(data):
    with contextlib.suppress(BadValue):
        assert parse_targets(data)
