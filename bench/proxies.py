"""How each proxy is told to do the same work: any path, upgrades included, to one backend.

With an access log in a file, and no other log. Everything else is the proxy's default, or what its
documentation says for WebSocket.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.certificate import Tls
from bench.rules import Rules

REPOSITORY = Path(__file__).parent.parent
DEFAULT_KEEPALIVE = "{}"
NO_KEEPALIVE = "{client: off, backend: off}"


@dataclass(frozen=True)
class Place:
    """Where and how one instance of a proxy runs. Ports are of 127.0.0.1; `directory` is its own and temporary.

    `keepalive` is the YAML of our gateway's key of that name; no other proxy has one, nor `rules`. With `tls` clients
    use that.
    """

    directory: Path
    port: int
    admin_port: int
    backend_port: int
    workers: int
    keepalive: str
    tls: Tls | None
    rules: Rules = field(default_factory=Rules)

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path


@dataclass(frozen=True)
class Launch:
    """A command that runs a proxy in the foreground; its stdout goes to a file."""

    command: list[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: Path | None = None


@dataclass(frozen=True)
class Proxy:
    """A proxy that can be measured.

    `program` is searched on PATH and beside this Python; `stop` ends it at once; `relay` is what
    `gateway_build_info` must say (None: not ours); `tls` whether it is configured for scenarios with TLS.
    """

    name: str
    program: str
    version_arguments: list[str]
    launch: Callable[[Path, Place], Launch]
    stop: signal.Signals = signal.SIGTERM
    relay: str | None = None
    tls: bool = True

    def find(self) -> Path | None:
        """Returns the program, or None when it is not installed."""
        beside = Path(sys.executable).parent
        found = shutil.which(self.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:{beside}")
        return Path(found) if found else None

    def version(self, program: Path) -> str:
        """Returns what the program says about itself, in one line."""
        said = subprocess.run([program, *self.version_arguments], capture_output=True, text=True, cwd=REPOSITORY)
        lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if line.strip()]
        return lines[0] if lines else "unknown"


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _nginx(program: Path, place: Place) -> Launch:
    here = place.directory
    forwarded = """proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;"""
    listen = f"listen 127.0.0.1:{place.port};"
    if place.tls is not None:
        listen = f"""listen 127.0.0.1:{place.port} ssl backlog=4096;
        ssl_certificate {place.tls.certificate};
        ssl_certificate_key {place.tls.key};
        ssl_protocols TLSv1.2 TLSv1.3;
        keepalive_requests 1000000;"""
    configuration = place.write(
        "nginx.conf",
        f"""
worker_processes {place.workers};
daemon off;
pid {here}/nginx.pid;
error_log {here}/error.log warn;
events {{ worker_connections {_descriptors()}; }}
http {{
    access_log {here}/access.log;
    client_body_temp_path {here}/body;
    proxy_temp_path {here}/proxy;
    fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi;
    scgi_temp_path {here}/scgi;
    upstream plain {{
        server 127.0.0.1:{place.backend_port};
        keepalive 64;
    }}
    server {{
        {listen}
        proxy_http_version 1.1;
        location /ws/ {{
            proxy_pass http://127.0.0.1:{place.backend_port};
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            {forwarded}
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
        location / {{
            proxy_pass http://plain;
            proxy_set_header Connection "";
            {forwarded}
            proxy_request_buffering off;
        }}
        location /events/ {{
            proxy_pass http://plain;
            proxy_set_header Connection "";
            {forwarded}
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
""",
    )
    return Launch([program, "-e", here / "error.log", "-c", configuration])


def _haproxy(program: Path, place: Place) -> Launch:
    crypto = f" ssl crt {place.tls.both} ssl-min-ver TLSv1.2" if place.tls is not None else ""
    configuration = place.write(
        "haproxy.cfg",
        f"""
global
    nbthread {place.workers}
    maxconn {(_descriptors() - 200) // 2}
    log stdout format raw local0 info
defaults
    mode http
    log global
    option httplog
    option forwardfor
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend bench
    bind 127.0.0.1:{place.port}{crypto}
    use_backend events if {{ path_beg /events/ }}
    default_backend echo
backend echo
    server echo 127.0.0.1:{place.backend_port}
backend events
    option http-no-delay
    server echo 127.0.0.1:{place.backend_port}
""",
    )
    return Launch([program, "-db", "-f", configuration])


def _envoy(program: Path, place: Place) -> Launch:
    types = "type.googleapis.com/envoy.extensions"

    def at(port: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "3600s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": f"{types}.access_loggers.file.v3.FileAccessLog",
                    "path": str(place.directory / "access.log"),
                },
            }
        ],
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "echo", "timeout": "0s"}}],
                }
            ]
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoint = {"endpoint": {"address": at(place.backend_port)}}
    most = {"max_connections": 100_000, "max_requests": 100_000, "max_pending_requests": 100_000}
    configuration = {
        "static_resources": {
            "listeners": [{"name": "bench", "address": at(place.port), "filter_chains": [{"filters": filters}]}],
            "clusters": [
                {
                    "name": "echo",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "echo",
                        "endpoints": [{"lb_endpoints": [endpoint]}],
                    },
                    "circuit_breakers": {"thresholds": [most]},
                }
            ],
        }
    }
    path = place.write("envoy.json", json.dumps(configuration))
    options = ["--concurrency", str(place.workers), "--disable-hot-restart", "--log-level", "error"]
    return Launch([program, "-c", path, *options])


def _caddy(program: Path, place: Place) -> Launch:
    configuration = place.write(
        "Caddyfile",
        f"""
{{
    admin off
    auto_https off
    persist_config off
    grace_period 1s
    log {{
        level ERROR
    }}
}}
http://:{place.port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{place.backend_port}
    log {{
        level INFO
        output file {place.directory}/access.log
    }}
}}
""",
    )
    home = str(place.directory)
    environment = {
        "GOMAXPROCS": str(place.workers),
        "HOME": home,
        "XDG_DATA_HOME": home,
        "XDG_CONFIG_HOME": home,
    }
    return Launch([program, "run", "--adapter", "caddyfile", "--config", configuration], environment)


def _gateway(program: Path, place: Place, relay: str) -> Launch:
    tls = place.tls
    crypto = f"tls: {{certificates: [{{cert: {tls.certificate}, key: {tls.key}}}]}}" if tls is not None else ""
    rules = f"    <<: {{{place.rules.route.replace('{port}', str(place.port))}}}\n" if place.rules.route else ""
    configuration = place.write(
        "gateway.yaml",
        f"""
workers: {place.workers}
keepalive: {place.keepalive}
listen:
  - address: 127.0.0.1:{place.port}
    {crypto}
admin:
  address: 127.0.0.1:{place.admin_port}
access_log: {{path: "{place.directory}/access.log", format: json}}
upstreams:
{place.rules.upstreams(place.backend_port)}
routes:
  - name: echo
    match: {{path: /}}
    upstream: echo
{rules}""",
    )
    environment = {"PYTHONPATH": str(REPOSITORY)}  # workers do not look where they were started
    if relay == "pure":
        environment["GATEWAY_RELAY"] = relay
    return Launch([program, "-m", "gateway", "run", "-c", configuration], environment, REPOSITORY)


def _compiled_gateway(program: Path, place: Place) -> Launch:
    return _gateway(program, place, "compiled")


def _pure_gateway(program: Path, place: Place) -> Launch:
    return _gateway(program, place, "pure")


BASELINE = Proxy("nginx", "nginx", ["-v"], _nginx)
_GATEWAY_VERSION = ["-c", "from gateway.version import VERSION; print('upgrade-gateway', VERSION)"]
SUBJECTS = [
    Proxy("gateway", sys.executable, _GATEWAY_VERSION, _compiled_gateway, signal.SIGINT, "compiled"),
    Proxy("gateway-pure", sys.executable, _GATEWAY_VERSION, _pure_gateway, signal.SIGINT, "pure"),
    Proxy("haproxy", "haproxy", ["-v"], _haproxy),
    Proxy("envoy", "envoy", ["--version"], _envoy, tls=False),
    Proxy("caddy", "caddy", ["version"], _caddy, tls=False),
]
