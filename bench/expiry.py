"""`python -m bench.expiry [TUNNELS]`: how many tunnels are closed in each second whose tokens expire at once."""

import base64
import collections
import hashlib
import hmac
import json
import resource
import select
import socket
import sys
import tempfile
import time
from pathlib import Path

from bench.build import build_load
from bench.flood import REQUEST, running_gateway
from bench.load import running_backend
from bench.rules import SECRET

TUNNELS = 9000
LIFETIME_SECONDS = 40
SPREAD_SECONDS = 10
PATIENCE_SECONDS = 30
FROM_EACH_ADDRESS = 4000
_CONFIGURATION = f"""
workers: 2
keepalive: {{{{client: off, backend: off}}}}
listen: [{{{{address: 127.0.0.1:{{port}}}}}}]
admin: {{{{address: 127.0.0.1:{{admin}}}}}}
access_log: off
upstreams: {{{{one: {{{{backends: ["127.0.0.1:{{backend}}"]}}}}}}}}
routes:
  - name: one
    upstream: one
    auth:
      jwt:
        secret: "{SECRET}"
        algorithms: [HS256]
        at_expiry: {{{{close_code: 4401, spread: {SPREAD_SECONDS}s}}}}
"""


def main() -> None:
    tunnels = int(sys.argv[1]) if len(sys.argv) > 1 else TUNNELS
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory() as name,
        running_backend(build_load(), None) as (backend, _),
        running_gateway(Path(name), _CONFIGURATION, backend) as port,
    ):
        expires = int(time.time()) + LIFETIME_SECONDS
        clients = dict(_opened(port, tunnels, _token(expires)))
        print(f"{len(clients)} tunnels, {expires - time.time():.0f} s before their tokens expire")
        closed = _closed(clients, expires)
    for second, count in sorted(closed.items()):
        print(f"{second:+4} s: {count}")
    print(f"{sum(closed.values())} got Close 4401, {len(clients)} are left")


def _token(expires: int) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = ".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS256"}, {"sub": "ann", "exp": expires}))
    return f"{text}.{part(hmac.digest(SECRET.encode(), text.encode(), hashlib.sha256))}"


def _opened(port: int, tunnels: int, token: str) -> list[tuple[int, socket.socket]]:
    request = REQUEST.format(path="/", fields=f"Authorization: Bearer {token}\r\n").encode()
    clients = []
    for number in range(tunnels):
        client = socket.socket()
        client.bind((f"127.0.0.{1 + number // FROM_EACH_ADDRESS}", 0))
        client.connect(("127.0.0.1", port))
        client.sendall(request)
        if not client.recv(4096).startswith(b"HTTP/1.1 101 "):
            raise SystemExit("bench: no upgrade passed")
        clients.append((client.fileno(), client))
    return clients


def _closed(clients: dict[int, socket.socket], expires: int) -> collections.Counter[int]:
    """Answer Close frames until the last tunnel has ended. :returns: how many came, by seconds after the expiry"""
    closed: collections.Counter[int] = collections.Counter()
    epoll = select.epoll()
    for descriptor in clients:
        epoll.register(descriptor, select.EPOLLIN)
    while clients and time.time() < expires + PATIENCE_SECONDS:
        for descriptor, _ in epoll.poll(1):
            client = clients.pop(descriptor)
            data = client.recv(4096)
            if data[:1] == b"\x88" and int.from_bytes(data[2:4], "big") == 4401:
                closed[int(((time.time() - expires) // 1)] += 1
                client.sendall(b"\x88\x82\0\0\0\0" + data[2:4])
            epoll.unregister(descriptor)
            client.close()
    return closed


if __name__ == "__main__":
    main()
