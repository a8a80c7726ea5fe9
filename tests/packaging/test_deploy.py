"""The container image and the compose file, as far as they can be read: no engine runs them here.

What the image does inside (build the wheel, install it, run it, ask for its health) is done by ``test_wheel``.
"""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from gateway.config import load
from tests.packaging.files import ROOT, compose, instructions

DEPLOY = ROOT / "deploy"
CONFIG = load(DEPLOY / "gateway.yaml", {"ADMIN_TOKEN": "secret"})


def _all(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def test_the_default_configuration_is_the_one_at_hand() -> None:
    assert (ROOT / "gateway.yaml").read_bytes() == (ROOT / "gateway" / "demo" / "gateway.yaml").read_bytes()


# --- Dockerfile ------------------------------------------------------------------------------------------------------


def test_the_last_stage_has_no_compiler_and_is_not_root() -> None:
    names = [name for name, _ in instructions()]
    last = instructions()[len(names) - names[::-1].index("FROM") - 1 :]
    assert not any("apt-get" in arguments or "gcc" in arguments for _, arguments in last)
    assert [arguments for name, arguments in last if name == "USER"] == ["10001:10001"]


def test_what_it_copies_is_there_and_not_ignored() -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    sources = [source for arguments in _all("COPY") if "--from" not in arguments for source in arguments.split()[:-1]]
    assert sources
    assert set(sources) == kept
    assert all((ROOT / source).exists() for source in sources)


def test_it_starts_the_command_and_ends_by_draining() -> None:
    assert _all("ENTRYPOINT") == ['["gateway"]']
    assert [json.loads(arguments) for arguments in _all("CMD")] == [["run", "-c", "/etc/gateway/gateway.yaml"]]
    assert _all("STOPSIGNAL") == ["SIGTERM"]


def test_it_exposes_what_the_configuration_listens_on() -> None:
    ports = {CONFIG.admin.address.port, *(listener.address.port for listener in CONFIG.listen)}
    (exposed,) = _all("EXPOSE")
    assert set(map(int, exposed.split())) == ports


# --- compose ---------------------------------------------------------------------------------------------------------


def test_services_use_networks_volumes_and_services_that_there_are() -> None:
    document = compose()
    for name, service in document["services"].items():
        assert set(service["networks"]) <= document["networks"].keys(), name
        assert set(service.get("depends_on", {})) <= document["services"].keys(), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), volume
            else:
                assert source in document["volumes"], volume


def test_the_gateway_reaches_its_backends_and_prometheus_the_gateway() -> None:
    services = compose()["services"]

    def share_a_network(one: str, other: str) -> bool:
        return bool(set(services[one]["networks"]) & set(services[other]["networks"]))

    for upstream in CONFIG.upstreams.values():
        for backend in upstream.backends:
            assert backend.address.host is not None
            assert share_a_network("gateway", backend.address.host)
            assert f"port={backend.address.port})" in services[backend.address.host]["command"][0]
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"gateway:{CONFIG.admin.address.port}"]}]
    assert share_a_network("gateway", "prometheus")


def test_only_clients_reach_the_gateway_from_outside() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == ["8080:8080"]


def test_a_stopped_container_has_time_to_drain() -> None:
    grace = compose()["services"]["gateway"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= CONFIG.drain.period + CONFIG.timeouts.close + 5


def test_prometheus_has_the_token() -> None:
    document = compose()
    assert document["services"]["gateway"]["environment"]["ADMIN_TOKEN"].startswith("${ADMIN_TOKEN:?")
    assert document["services"]["prometheus"]["secrets"] == ["admin_token"]
    assert document["secrets"] == {"admin_token": {"environment": "ADMIN_TOKEN"}}
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["authorization"] == {"credentials_file": "/run/secrets/admin_token"}


def test_what_is_read_only_has_a_tmp() -> None:
    gateway = compose()["services"]["gateway"]
    assert gateway["read_only"] is True
    assert gateway["tmpfs"] == ["/tmp"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_the_configuration_of_prometheus() -> None:
    command = ["promtool", "check", "config", "--syntax-only", DEPLOY / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
