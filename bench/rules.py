"""What a route of our gateway asks of clients, in scenarios that compare it with itself without that."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass

SECRET = "a secret that is long enough for HS256, and known to all"
_OTHERS = ", ".join(f"10.{index}.0.0/16" for index in range(200))


@dataclass(frozen=True)
class Rules:
    """`route` is YAML for the route, in flow style, with `{port}` for the gateway's; `fields` are lines of requests.

    `backends` are how many each of several upstreams has, with health checks; the first one is the route's.
    """

    route: str = ""
    fields: str = ""
    backends: tuple[int, ...] = ()

    def upstreams(self, port: int) -> str:
        """YAML of the upstreams. :param port: of the backend, which listens on 16 addresses of loopback"""
        if not self.backends:
            return f'  echo: {{backends: ["127.0.0.1:{port}"]}}'
        lines = []
        for index, count in enumerate(self.backends):
            addresses = ", ".join(f'"127.0.0.{each + 1}:{port}"' for each in range(count))
            check = "health_check: {tcp: true, every: 5s}"
            lines.append(f"  {f'other-{index}' if index else 'echo'}: {{backends: [{addresses}], {check}}}")
        return "\n".join(lines)


def _token() -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head, claims = ({"alg": "HS256", "typ": "JWT"}, {"sub": "ann", "exp": 4102444800, "scope": "chat"})
    text = ".".join(part(json.dumps(each).encode()) for each in (head, claims))
    return f"{text}.{part(hmac.digest(SECRET.encode(), text.encode(), hashlib.sha256))}"


BY_ADDRESS_AND_ORIGIN = Rules(
    f'origins: ["http://127.0.0.1:{{port}}", "https://*.example.com"], allow: [127.0.0.0/8, {_OTHERS}]'
)
BY_TOKEN = Rules(
    f'auth: {{jwt: {{secret: "{SECRET}", algorithms: [HS256], require: {{scope: chat}}, forward: {{sub: X-User}}}}}}',
    f"Authorization: Bearer {_token()}\r\n",
)
PER_CLIENT = Rules(
    "limits: {handshakes_per_second: {per_client: 1000000, burst: 1000000}, tunnels_per_client: 100000}",
)
FIFTY_BACKENDS = Rules(backends=(13, 13, 12, 12))
MESSAGES = Rules("limits: {messages_per_second: {per_tunnel: 1000000, burst: 1000000}}")
FRAMES = Rules("limits: {frame_size: 1MiB}")
