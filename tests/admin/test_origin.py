"""Pages of other web sites get nothing from the admin address, and can have nothing done there."""

import json
import socket

import aiohttp
import pytest

from gateway.admin.origin import is_host_allowed
from gateway.admin.server import start_admin

from .gateways import CONFIG, FakeGateway

READS = ["/metrics", "/api/v1/status", "/api/v1/tunnels", "/", "/page.js", "/nothing"]
ORDERS = ["/api/v1/reload", "/api/v1/drain", "/api/v1/stop"]
OWN = socket.gethostname()


class Admin:
    """A running admin address and a client that sends the fields that a test wants."""

    def __init__(self, gateway: FakeGateway, port: int, client: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.port = port
        self._client = client

    async def ask(self, method: str, path: str, fields: dict[str, str]) -> tuple[int, str]:
        """Status and body. ``PORT`` in a field is the admin address's."""
        fields = {name: value.replace("PORT", str(self.port)) for name, value in fields.items()}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self._client.request(method, url, headers=fields) as response:
            return response.status, await response.text()


@pytest.fixture(params=[""])
async def admin(request, tmp_path):
    gateway = FakeGateway(f"{request.param}\n{CONFIG}")
    sock = socket.create_server(("127.0.0.1", 0))
    server = await start_admin(gateway.state, sock, str(tmp_path), gateway.operations)
    async with aiohttp.ClientSession() as client:
        yield Admin(gateway, sock.getsockname()[1], client)
    await server.close()
    gateway.table.close()


# --- names that another site may have pointed here --------------------------------------------------------------------

OTHER_NAMES = [
    "evil.example",
    "evil.example:PORT",
    "127.0.0.1.evil.example:PORT",
    f"{OWN}.evil.example",
    "localhost.evil.example",
    "evillocalhost",
    "",
]
MALFORMED = ["x@127.0.0.1:PORT", "127.0.0.1:PORT/evil", "[::1"]


@pytest.mark.parametrize("host", OTHER_NAMES)
async def test_other_names_get_nothing(admin, host):
    for path in READS:
        status, body = await admin.ask("GET", path, {"Host": host})
        assert status == 421
        assert "list the name in admin.hosts" in body
        assert "gateway_" not in body


@pytest.mark.parametrize("host", MALFORMED)
async def test_malformed_names_get_nothing(admin, host):
    for method, path in (("GET", "/metrics"), ("POST", "/api/v1/reload"), ("GET", "/healthz")):
        assert await admin.ask(method, path, {"Host": host}) == (400, "400: malformed Host\n")
    assert admin.gateway.operations.told == []


@pytest.mark.parametrize("host", OTHER_NAMES)
async def test_under_other_names_nothing_is_done(admin, host):
    for path in ORDERS:
        status, body = await admin.ask("POST", path, {"Host": host, "Origin": f"http://{host}"})
        assert status == 421
        assert "list the name in admin.hosts" in json.loads(body)["error"]
    assert admin.gateway.operations.told == []


async def test_the_log_says_which_name_was_refused(admin, caplog):
    for _ in range(5):
        await admin.ask("GET", "/metrics", {"Host": "gw.example.com:9100"})
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "admin: refused a request for host 'gw.example.com:9100'; if this gateway has"
    )


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_load_balancers_may_ask_for_health_under_any_name(admin, path):
    for host in ("evil.example", "gateway.internal:9100", "_"):
        assert (await admin.ask("GET", path, {"Host": host}))[0] == 200


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:PORT", "127.0.0.1", "192.0.2.7:9100", "[::1]:PORT", "localhost:9999", "LOCALHOST.", OWN, f"{OWN}:9100"],
)
async def test_addresses_and_the_machines_own_name(admin, host):
    """Prometheus asks by address or the machine's name; behind ``ssh -L 9999:…`` it is localhost and another port."""
    assert (await admin.ask("GET", "/metrics", {"Host": host}))[0] == 200
    assert (await admin.ask("POST", "/api/v1/reload", {"Host": host}))[0] == 200


async def test_a_client_of_http_1_0_that_names_no_host(admin):
    with socket.create_connection(("127.0.0.1", admin.port)) as sock:
        sock.setblocking(False)
        loop = admin._client._loop
        await loop.sock_sendall(sock, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert (await loop.sock_recv(sock, 100)).startswith(b"HTTP/1.0 200 OK\r\n")


@pytest.mark.parametrize("admin", ['admin: {hosts: [Gw.Example.com, "*.internal"]}'], indirect=True)
async def test_names_of_the_configuration(admin):
    for host in ("gw.example.com:9100", "GW.example.com", "a.b.internal:9100"):
        assert (await admin.ask("GET", "/metrics", {"Host": host}))[0] == 200
    fields = {"Host": "gw.example.com", "Origin": "https://gw.example.com", "Sec-Fetch-Site": "same-origin"}
    assert (await admin.ask("POST", "/api/v1/reload", fields))[0] == 200
    for host in ("internal", "evilinternal", "x.gw.example.com", "example.com"):
        assert (await admin.ask("GET", "/metrics", {"Host": host}))[0] == 421


def test_a_machine_with_a_full_name_is_known_by_the_first_part_of_it(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Web1.example.com")
    assert is_host_allowed("web1:9100", ())
    assert is_host_allowed("web1.Example.com:9100", ())
    assert not is_host_allowed("web1.evil.example", ())
    assert not is_host_allowed("example.com", ())


# --- pages that say where they come from ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://[::1"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
    ids=str,
)
async def test_pages_of_other_sites_are_refused(admin, fields):
    for path in [*READS, "/healthz"]:
        for method in ("GET", "HEAD"):
            status, body = await admin.ask(method, path, fields)
            assert status == 403
        assert "gateway_" not in body
    for path in ORDERS:
        status, body = await admin.ask("POST", path, fields)
        assert (status, json.loads(body)) == (403, {"error": "this request comes from a web page of another site"})
    assert admin.gateway.operations.told == []


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost:PORT", "Host": "localhost:PORT"},
        {"Origin": "http://[::1]:PORT", "Host": "[::1]:PORT"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_its_own_page_is_answered(admin, fields):
    assert (await admin.ask("GET", "/api/v1/status", fields))[0] == 200
    assert (await admin.ask("POST", "/api/v1/reload", fields))[0] == 200


async def test_a_link_on_another_site_may_be_followed_but_does_nothing(admin):
    fields = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await admin.ask("GET", "/", fields))[0] == 200
    assert (await admin.ask("POST", "/api/v1/reload", fields))[0] == 403  # a form that was sent
    assert admin.gateway.operations.told == []


async def test_a_unix_socket_is_asked_for_by_any_name(tmp_path):
    gateway = FakeGateway()
    path = str(tmp_path / "admin.sock")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await start_admin(gateway.state, sock, str(tmp_path), gateway.operations)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as client:
        async with client.get("http://any.example/metrics") as response:
            assert response.status == 200
        # Where a server in front makes it one of TCP, that a name is not the other site's is for us to say.
        fields = {"Origin": "http://any.example"}
        async with client.post("http://any.example/api/v1/reload", headers=fields) as response:
            assert response.status == 403
    await server.close()
    gateway.table.close()
