"""``gateway reload``, ``drain`` and ``stop``: what they say and exit with. Against real gateways: tests/integration."""

import socket
import threading

import pytest

from gateway.admin import origin as admin_origin
from gateway.cli import answers
from gateway.cli.drain import drain
from gateway.cli.reload import reload
from gateway.cli.stop import stop

from ..admin.gateways import CONFIG, FakeGateway
from .commands import run, serving


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    """A gateway whose configuration is in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    monkeypatch.setattr(answers, "PATIENCE_SECONDS", 0.5)
    sock = socket.create_server(("127.0.0.1", 0))
    (tmp_path / "gateway.yaml").write_text(CONFIG + f"admin: {{address: '127.0.0.1:{sock.getsockname()[1]}'}}\n")
    gateway = FakeGateway()
    with serving(gateway, sock, tmp_path):
        yield gateway


def test_reload(gateway):
    result = run(reload)
    assert (result.exit_code, result.output) == (0, "reloaded\n")
    assert gateway.operations.told == ["reload"]


def test_a_reload_that_is_refused_prints_the_reasons(gateway):
    gateway.operations.refusal = "gateway.yaml:3:1: routes: \x1b[31mred\ngateway.yaml:5:1: more"
    result = run(reload)
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        r"gateway.yaml:3:1: routes: \x1b[31mred",
        "gateway.yaml:5:1: more",
        "not reloaded: the current configuration stays in force",
    ]


def test_a_name_that_the_gateway_does_not_know_says_what_to_do(gateway, monkeypatch):
    monkeypatch.setattr(admin_origin, "is_host_allowed", lambda host, allowed: False)
    result = run(reload)
    assert result.exit_code == 1
    assert "use an IP address, localhost or the host name of the gateway's machine, or list" in result.output
    assert gateway.operations.told == []


def test_a_file_with_mistakes_still_says_where_the_gateway_is(gateway, tmp_path):
    with (tmp_path / "gateway.yaml").open("a") as file:
        file.write("nonsense: 1\n")
    assert run(reload).exit_code == 0
    assert run(drain, "--backend", "127.0.0.1:9001").exit_code == 0
    assert gateway.operations.told == ["reload", "drain [0]"]


@pytest.mark.parametrize(("command", "status"), [(reload, 1), (drain, 2), (stop, 2)])
def test_a_file_that_says_nothing(gateway, tmp_path, command, status):
    (tmp_path / "gateway.yaml").write_text("routes: [\n")
    result = run(command)
    assert result.exit_code == status
    assert result.output.startswith("gateway.yaml:2:1: file: not YAML")
    assert gateway.operations.told == []


@pytest.mark.parametrize("command", [reload, drain, stop])
def test_the_admin_address_may_be_given(gateway, tmp_path, command):
    address = f"127.0.0.1:{(tmp_path / 'gateway.yaml').read_text().rpartition(':')[2].strip()[:-2]}"
    (tmp_path / "gateway.yaml").unlink()
    gateway.operations.refusal = "not now"
    result = run(command, "--admin", address)
    assert result.exit_code == 1
    assert "not now" in result.output


@pytest.mark.parametrize("command", [reload, drain, stop])
def test_no_gateway_runs(tmp_path, command):
    file = tmp_path / "gateway.yaml"
    file.write_text(CONFIG + "admin: {address: '127.0.0.1:1'}\n")
    result = run(command, "-c", str(file))
    assert result.exit_code == 1
    assert "no gateway answers at 127.0.0.1:1: connection refused" in result.output


def test_a_gateway_that_does_not_go(gateway):
    result = run(stop)
    assert result.exit_code == 1
    assert "is still running after" in result.output
    assert gateway.operations.told == ["stop"]


def test_one_backend_that_has_no_tunnels(gateway):
    result = run(drain, "--backend", "Chat2.Internal:9001")
    assert result.exit_code == 0
    assert result.output.startswith("drained 0 tunnels in 0.")
    assert result.output.endswith("s; chat2.internal:9001 gets nothing new until the next reload\n")
    assert gateway.operations.told == ["drain [1]"]


def test_one_backend_whose_tunnels_end(gateway):
    row = gateway.open()
    timer = threading.Timer(0.3, gateway.close, (row,))
    timer.start()
    result = run(drain, "--backend", "127.0.0.1:9001")
    timer.join()
    assert result.exit_code == 0
    assert result.output.startswith("drained 1 tunnel in ")


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ("10.9.9.9:1", 'there is no backend "10.9.9.9:1" (there are: 127.0.0.1:9001, chat2.internal:9001, unix:'),
        ("nonsense", '--backend: "nonsense" has no port'),
    ],
)
def test_a_backend_that_there_is_not(gateway, backend, says):
    result = run(drain, "--backend", backend)
    assert result.exit_code == 2
    assert says in result.output
    assert gateway.operations.told == []
