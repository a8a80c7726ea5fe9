"""What a gateway has left in its record, and a configuration that can go on with it."""

from gateway.config import Config, parse
from tests.config.files import MINIMAL

GOOD = (
    b'{"version": "1", "path": "x", "workers": 1, "max_tunnels": 16, "admin": ["127.0.0.1:9", 4], "listen": [],'
    b'"table": -1, "metrics": "/nowhere", "generation": 3, "routes": ["r"], "backends": [["a", "127.0.0.1:2"]],'
    b'"learned": [], "started_unix": 1.0, "last_reload_unix": 1.0, "worker_restarts": 0, "signals": [], "asking": [],'
    b'"drained_backends": [], "running": [], "mirrors": [], "store": null, "control": 77, "form": 1}'
)


def config(workers: int = 1, max_tunnels: int | str = 16) -> Config:
    return parse(f"workers: {workers}\nmax_tunnels: {max_tunnels}\n{MINIMAL}", "gateway.yaml", {})
