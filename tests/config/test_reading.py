"""Configurations that another process reads, for one without pydantic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.config import ConfigError, load, reading
from gateway.config.certificates import Certificates
from gateway.config.credentials import Credentials
from gateway.config.reading import Reading, read
from gateway.config.settings import Settings

RICH = """
workers: 3
listen: [{address: "127.0.0.1:8080"}, {address: "unix:/tmp/gateway.sock"}]
admin: {address: "127.0.0.1:9100", token: "0123456789abcdef0123456789abcdef"}
timeouts: {connect: 500ms}
keepalive: {client: {ping_after: 40s}, backend: off}
upstreams:
  a: {backends: ["127.0.0.1:1", {address: "127.0.0.1:2", weight: 3}], balance: sticky}
  b: {backends: ["b.internal:1"], health_check: {path: /ready}}
routes:
  - {name: shared, match: {path: /shared}, upstreams: [{name: a, weight: 9}, {name: b}]}
  - name: own
    match: {path: /own, headers: {X-A: b}}
    upstream: a
    timeouts: {handshake: 3s}
    keepalive: {client: off, backend: {ping_after: 20s}}
  - {name: gone, match: {path: /gone}, redirect: {to: "https://{host}{uri}"}}
  - {name: rest, match: {path: /}, upstream: b}
"""

WITHOUT_PYDANTIC = """
import sys
from gateway.config.unvalidated import import_sections
import_sections()
from gateway.config.certificates import Certificates
from gateway.config.credentials import Credentials
from gateway.config.reading import read
from gateway.config.settings import Settings
config, again = read(sys.argv[1]), read(sys.argv[1])
assert config == again and config.routes[0] == again.routes[0] != config.routes[1]
assert hash(config.admin) == hash(again.admin)
try:
    config.workers = 7
except AttributeError:
    pass
else:
    raise AssertionError("it is not frozen")
print(Settings.of(config, Certificates.read(config), Credentials.read(config)))
print([config.keepalive_of(route).client is None for route in config.routes])
print(config.upstreams["a"].resolved_sticky().ttl)
assert not {"pydantic", "pydantic_core", "yaml"} & set(sys.modules), "it has what reads configurations"
"""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has pydantic, but does not know."""
    monkeypatch.setattr(reading, "sys", SimpleNamespace(executable=sys.executable, modules={}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text(RICH)
    return file


def test_a_process_without_pydantic_gets_the_same(file: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_PYDANTIC, file]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    config = load(file)
    assert lines == [
        str(Settings.of(config, Certificates.read(config), Credentials.read(config))),
        "[False, True, False, False]",
        "None",
    ]


@pytest.mark.usefixtures("elsewhere")
def test_mistakes_are_reported_as_they_are_elsewhere(file: Path) -> None:
    file.write_text(RICH.replace("weight: 9", "weight: nine").replace("/gone}", "/gone, x: 1}"))
    with pytest.raises(ConfigError) as here:
        load(file)
    with pytest.raises(ConfigError) as there:
        read(str(file))
    assert there.value.problems == here.value.problems
    assert len(here.value.problems) == 2


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_doubts(file: Path, where: str, request: pytest.FixtureRequest) -> None:
    if where == "elsewhere":
        request.getfixturevalue("elsewhere")
    file.write_text(RICH.replace("path: /own", "path: /shared"))
    found = Reading(str(file)).result()
    assert found.config == load(file)
    assert any(f"{file}:" in doubt for doubt in found.doubts)


@pytest.mark.usefixtures("elsewhere")
def test_a_process_that_fails(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match="was not read: the process that was to do it exited with status 1"):
        read(str(file))
    monkeypatch.setattr(reading.sys, "executable", "/nothing/here")
    with pytest.raises(ValueError, match=r"was not read: no process can be started for it: .*No such file"):
        read(str(file))


@pytest.mark.usefixtures("elsewhere")
def test_another_version_is_installed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "VERSION", "0.0.0")
    with pytest.raises(ValueError, match=r"version .* is installed, and 0\.0\.0 is running: upgrade the gateway"):
        read(str(file))
