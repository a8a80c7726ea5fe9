"""``gateway status`` and ``gateway tunnels``, against a real admin address."""

import json
import re
import socket
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address

import pytest

from gateway.admin.state import CredentialState
from gateway.cli.output import duration, interval, round_trip, size
from gateway.cli.status import status
from gateway.cli.tunnels import tunnels
from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.layout import TUNNELS
from gateway.tunnels.quotas.quotas import Quotas
from gateway.tunnels.table.layout import T_CUTOFF_NS, T_INTERVAL_NS

from ..admin.gateways import CONFIG, NS, FakeGateway
from .commands import run, serving

FEED = ("feed", ("feed", "unix:/run/feed.sock"))


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    """A gateway whose configuration is in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    sock = socket.create_server(("127.0.0.1", 0))
    (tmp_path / "gateway.yaml").write_text(CONFIG + f"admin: {{address: '127.0.0.1:{sock.getsockname()[1]}'}}\n")
    gateway = FakeGateway()
    with serving(gateway, sock, tmp_path):
        yield gateway


def row_with(output: str, text: str) -> str:
    (line,) = [line for line in output.splitlines() if text in line]
    return line


@pytest.mark.parametrize("token", ["s3cret\n", "s3cret s3cret", "s3cr\u00e9t", "\u65e5"])
def test_a_token_that_is_none(gateway, monkeypatch, token):
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", token)
    for arguments in ((), ("--admin", "127.0.0.1:9")):
        result = run(status, *arguments)
        assert result.exit_code == 2
        assert "GATEWAY_ADMIN_TOKEN holds characters that a bearer token cannot have" in result.output
        assert "s3c" not in result.output


# --- status --------------------------------------------------------------------------------------------------------


def test_status(gateway):
    gateway.open(client_idle=70, backend_idle=70)
    gateway.open(slot=1)
    gateway.slices[0].note_connect(1, False, 5)
    result = run(status)
    assert result.exit_code == 0
    assert row_with(result.output, "state  ").split() == ["state", "ready"]
    assert "2 of at most 1000" in result.output
    assert row_with(result.output, "chat2.internal:9001").split() == ["chat", "chat2.internal:9001", "down", "2", "0"]
    assert row_with(result.output, "127.0.0.1:9001").split() == ["chat", "127.0.0.1:9001", "up", "1", "2"]
    assert row_with(result.output, " 4001 ").split()[-1] == "1"
    assert row_with(result.output, "chat    chat").split()[:4] == ["chat", "chat", "2", "1"]


def test_status_says_when_sides_are_pinged(gateway):
    config = CONFIG.replace(
        "upstream: feed}", "upstream: feed, keepalive: {client: {ping_after: adaptive}, backend: off}}"
    )
    (after := FakeGateway(config)).table.close()
    gateway.state.config = after.state.config
    gateway.note(0, "client", {T_INTERVAL_NS: 48 * NS, T_CUTOFF_NS: 60 * NS}, "feed")
    output = run(status).output
    assert row_with(output, "chat    chat").split()[4:] == ["after", "25s", "after", "25s"]
    assert row_with(output, "feed    feed").split()[4:] == ["after", "48s,", "cut", "at", "1m", "-"]


def test_status_shows_users_and_keys(gateway):
    url = "https://auth.example/keys"
    gateway.state.credentials = [
        CredentialState("/etc/users", "users", 12, None, None),
        CredentialState("/etc/one", "users", 1, None, "line 3 is not name:hash"),
        CredentialState(url + "/1", "keys", 2, 1.7e9, None),
        CredentialState(url + "/2", "keys", 2, 1.7e9, "\x1b[31mred"),
        CredentialState(url + "/3", "keys", None, None, None),
        CredentialState(url + "/4", "keys", None, None, "cannot connect"),
    ]
    output = " ".join(run(status).output.split())
    assert "/etc/users 12 users - good" in output
    assert "/etc/one 1 user - line 3 is not name:hash; what was there before is in use" in output
    assert re.search(url + r"/1 2 keys 2023-\S+ \S+ good", output)
    assert re.search(url + r"/2 2 keys 2023-\S+ \S+ \\x1b\[31mred; what was there before is in use", output)
    assert url + "/3 no keys - not fetched yet" in output
    assert url + "/4 no keys - cannot connect" in output


def test_status_of_a_gateway_in_trouble(gateway):
    gateway.stop(0)
    gateway.stop(1)
    gateway.state.last_reload_ok = False
    gateway.state.last_reload_error = "gateway.yaml:3:1: routes: \x1b[31mred\x1b[0m [bold]x[/bold]"
    output = run(status).output
    assert "not ready: no worker accepts" in output
    assert r"gateway.yaml:3:1: routes: \x1b[31mred\x1b[0m [bold]x[/bold]" in output


def test_status_names_clients_that_were_limited(gateway):
    with closing(Quotas.create(gateway.table.slots, 1000)) as gateway.state.quotas:
        assert "LIMITED CLIENT" not in run(status).output
        share = gateway.state.quotas.share(0)
        for _ in range(3):
            share.note_limited(Client.of(0, ip_address("2001:db8::1")), TUNNELS)
        output = run(status).output
        assert row_with(output, "2001:db8::/64").split()[:4] == ["2001:db8::/64", "chat", "tunnels_per_client", "3"]
        assert "LIMITED CLIENT" in output
        gateway.state.quotas = None


def test_status_as_json(gateway):
    answer = json.loads(run(status, "--json").output)
    assert [worker["index"] for worker in answer["workers"]] == [0, 1]


# --- tunnels -------------------------------------------------------------------------------------------------------


def test_tunnels_most_silent_first(gateway):
    gateway.open(age=4000, client_idle=3700, backend_idle=200, counts=(10, 1, 2048, 2))
    gateway.open(*FEED, age=400, client_idle=300, backend_idle=300, texts={"path": b"/feed"})
    result = run(tunnels)
    assert result.exit_code == 0
    head, first, second = result.output.splitlines()
    assert head.split()[:5] == ["ID", "ROUTE", "BACKEND", "CLIENT", "PATH"]
    assert first.split()[1:5] == ["feed", "unix:/run/feed.sock", "192.0.2.7:5000", "/feed"]
    assert "1h 6m" in second
    assert "1h 1m" in second
    assert "2.0 KiB" in second


def test_tunnels_with_their_pings(gateway):
    gateway.open(client_idle=20, backend_idle=300, age=400, ping_after=(25, None), rtt=(0.0385, 0))
    head, row = (re.split(" {2,}", line) for line in run(tunnels).output.splitlines())
    found = dict(zip(head, row, strict=True))
    assert re.fullmatch("2[0-4]s of 25s", found["CLIENT IDLE"])
    assert re.fullmatch("5m( [1-9]s)?", found["BACKEND IDLE"])
    assert (found["CLIENT RTT"], found["BACKEND RTT"]) == ("38 ms", "-")


def test_tunnels_that_are_asked_for(gateway):
    gateway.open(age=4000, client_idle=3700, backend_idle=200)
    gateway.open(*FEED, texts={"path": b"/feed"})
    assert "/feed" not in run(tunnels, "--idle-over", "60s").output
    assert "/ws/room" not in run(tunnels, "--route", "feed").output
    assert "/feed" in run(tunnels, "--backend", "unix:/run/feed.sock").output
    result = run(tunnels, "--limit", "1")
    assert "/feed" not in result.stdout
    assert result.stderr == "1 of 2; --limit 2 shows them all\n"


def test_no_tunnels(gateway):
    result = run(tunnels)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no tunnels are open\n")
    assert run(tunnels, "--idle-over", "1h").stderr == "no tunnel matches\n"


def test_tunnels_as_json(gateway):
    gateway.open()
    answer = json.loads(run(tunnels, "--json", "--limit", "7").output)
    assert (answer["total"], answer["limit"]) == (1, 7)


def test_a_hostile_path_does_nothing_to_the_terminal(gateway):
    gateway.open(texts={"path": b"/\x1b]0;owned\x07[red]x[/red]\xe2\x80\xae\n/2"})
    output = run(tunnels).output
    assert r"/\x1b]0;owned\x07[red]x[/red]\u202e\n/2" in output
    assert all(c.isprintable() or c == "\n" for c in output)


def test_a_long_path_is_whole_where_there_is_no_terminal(gateway):
    path = b"/" + b"x" * 250
    gateway.open(texts={"path": path})
    assert path.decode() in run(tunnels).output


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--route", "chta"), 'there is no route "chta" (did you mean chat? there are: chat, feed)'),
        (("--idle-over", "soon"), 'idle_over is "soon" (seconds or a duration, such as 60, 90s or 5m)'),
        (("--backend", "nowhere"), 'backend: "nowhere" has no port'),
        (("--limit", "0"), "Invalid value for '--limit'"),
        (("--limit", "99999999"), 'limit is "99999999"'),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(gateway, args, complaint):
    result = run(tunnels, *args)
    assert result.exit_code == 2
    assert complaint in result.stderr


# --- finding the gateway -------------------------------------------------------------------------------------------


def test_the_configuration_may_be_elsewhere(gateway, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run(status).exit_code == 2
    assert run(status, "-c", "../gateway.yaml").exit_code == 0
    monkeypatch.setenv("GATEWAY_CONFIG", "../gateway.yaml")
    assert run(status).exit_code == 0


def test_an_admin_address_on_every_interface_is_asked_on_loopback(tmp_path):
    sock = socket.create_server(("0.0.0.0", 0))
    port = sock.getsockname()[1]
    with serving(FakeGateway(), sock, tmp_path):
        assert run(status, "--admin", f"0.0.0.0:{port}").exit_code == 0
        assert run(status, "--admin", f"http://localhost:{port}/").exit_code == 0


def test_an_admin_address_on_a_unix_socket(tmp_path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "admin.sock"))
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG + f"admin: {{address: 'unix:{tmp_path}/admin.sock'}}\n")
    with serving(FakeGateway(), sock, tmp_path):
        assert run(status, "-c", str(config)).exit_code == 0
        assert run(tunnels, "--admin", f"unix:{tmp_path}/admin.sock").exit_code == 0


def test_no_gateway_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    result = run(status, "--admin", f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: no gateway answers at 127.0.0.1:{port}: connection refused "
        "(is the gateway running? `gateway run` starts it, --admin names another address)\n"
    )
    result = run(status, "--admin", f"unix:{tmp_path}/none.sock")
    assert result.exit_code == 1
    assert "no such file or directory" in result.stderr


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:1", "http://", "http://h:port", "http://[::1"])
def test_an_admin_address_that_is_none(address):
    result = run(status, "--admin", address)
    assert result.exit_code == 2
    assert "expected http://host:port or unix:/path" in result.stderr


@pytest.mark.parametrize(("code", "body"), [(200, b"<html>"), (200, b"[]"), (404, b"{}"), (400, b"\xff"), (302, b"")])
def test_something_else_answers(code, body):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        result = run(status, "--admin", f"127.0.0.1:{server.server_port}")
        thread.join()
    assert result.exit_code == 1
    assert "is not a gateway's admin address" in result.stderr


def test_what_answers_speaks_no_http():
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def answer():
            with sock.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = run(status, "--admin", f"127.0.0.1:{sock.getsockname()[1]}")
        thread.join()
    assert result.exit_code == 1
    assert "is not a gateway's admin address" in result.stderr


def test_a_configuration_with_mistakes(tmp_path):
    config = tmp_path / "gateway.yaml"
    config.write_text("admin: 5\n")
    result = run(status, "-c", str(config))
    assert result.exit_code == 2
    assert f"{config}:1:8: admin: " in result.stderr


def test_mistakes_elsewhere_do_not_matter(gateway, tmp_path):
    """A certificate may be broken while the gateway runs, and that is when an operator asks."""
    config = tmp_path / "gateway.yaml"
    config.write_text(config.read_text().replace("workers:", "wörkers:"))
    assert run(status, "-c", str(config)).exit_code == 0


def test_a_worker_imports_none_of_it():
    program = "import gateway.observe.ends, gateway.observe.events, sys; print({'click', 'rich'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


# --- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "9s"),
        (59.9, "59s"),
        (60, "1m"),
        (303, "5m 3s"),
        (7500, "2h 5m"),
        (3600, "1h"),
        (3605, "1h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 << 10, "200 KiB"), (5 << 50, "5120 TiB")]
)
def test_sizes(number, text):
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1s"), (1.5, "1.5s"), (25, "25s"), (9.96, "10s"), (47.96, "48s"), (59.997, "1m"), (240, "4m")],
)
def test_intervals(seconds, text):
    assert interval(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.00004, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.00996, "10 ms"),
        (0.0386, "39 ms"),
        (0.9996, "1.0s"),
        (12.3, "12s"),
    ],
)
def test_round_trips(seconds, text):
    assert round_trip(seconds) == text
