"""Configurations that the tests start from, and what the gateway says of one."""

from collections.abc import Mapping

from gateway.config import Config, ConfigError, parse

FILENAME = "gateway.yaml"

MINIMAL = """\
listen: [{address: "0.0.0.0:8080"}]
upstreams:
  chat: {backends: ["127.0.0.1:9001"]}
routes:
  - {name: chat, upstream: chat}
"""

# What interface.md has and the gateway knows, as it stands there.
CONTRACT = """\
workers: auto                          # [A] processes that relay; auto = one for each CPU
max_tunnels: auto                      # [A] capacity of the table. auto [D]: what the descriptor limit carries

listen:
  - address: 0.0.0.0:8080              # [A] host:port, [::]:port, unix:/run/gateway.sock
  - address: 0.0.0.0:8443
    tls:                               # [E]
      certificates: [{cert: chat.pem, key: chat.key}]   # chosen by SNI; re-read on reload and when the files change
      min_version: "1.2"
      client_ca: clients.pem           # mutual TLS; `client_required: false` asks and goes on without
    proxy_protocol: true               # [E] v1 and v2, only from trusted_proxies

trusted_proxies: [10.0.0.0/8]          # [A] whose X-Forwarded-* (and PROXY header) is believed

admin:
  address: 127.0.0.1:9100              # [A] /metrics /healthz /readyz /api/v1/… and the status page at /

heads: {max_size: 32KiB, max_fields: 200}              # [D] beyond it 431; answers may be twice that
underscores: drop                      # [D] request fields with `_` in their name: drop, pass, reject (400)

access_log: {path: "-", format: json}  # [A] one line for each handshake and one for each tunnel's end

timeouts:                              # [A] each may be overridden on a route
  request_head: 10s                    # whole head received (408)
  connect: 5s                          # TCP (and TLS) to the backend (504)
  handshake: 10s                       # backend's answer to the upgrade (504)
  write_stall: 60s                     # a side that takes no bytes
  close: 10s                           # from the first Close frame or FIN to the end
  request_body: 60s                    # [D] plain HTTP: between two pieces of a body (408)
  response: 60s                        # [D] plain HTTP: until the answer's head (504), then between two pieces
  http_idle: 75s                       # [D] a client's connection between two requests
  idle: off                            # no data frame either way: Close 1001, then end
  max_lifetime: off                    # Close 1012, then end

keepalive:                             # [B] each may be overridden on a route; the default is the first line for both
  client:  {ping_after: 25s, pong_timeout: 20s}      # silence on that side's connection; `off` for none
  backend: {ping_after: adaptive, min: 5s, max: 4m, pong_timeout: 20s}
drain: {period: 30s, close_code: 1012} # [C] closes are spread evenly over the period

upstreams:
  chat:
    backends:
      - 127.0.0.1:9001                 # [A] host:port, unix:/path
      - {address: chat2.internal:9001, weight: 2, max_tunnels: 5000, backup: false, drain: false}   # [G] but weight
    balance: consistent_hash           # [A] round_robin, least_tunnels; [G] random_two, consistent_hash, sticky
    hash_on: client_ip                 # [G] client_ip, path, header:NAME, cookie:NAME, query:NAME
    connect_retries: 2                 # [A] other backends tried when connecting fails
    tls: {ca: internal.pem, server_name: chat.internal, cert: gw.pem, key: gw.key, verify: true}   # [E]
    proxy_protocol: v2                 # [E]
    pool: {idle: 15s, size: 64}        # [D] connections kept for plain HTTP, for each worker and backend; off
    on_loss: {close_code: 1012}        # [C] what a client is told when its backend vanishes; off = just end

routes:                                # first match wins, in order
  - name: chat                         # [A] the `route` label of every metric
    match:
      hosts: [chat.example.com, "*.example.com"]       # [A]
      path: /ws/                       # [A] prefix on a segment boundary; path_exact; path_regex
      subprotocols: [v10.stomp, v11.stomp]             # [A] any of those the client offers
    upstream: chat                     # [A]
    upgrades: [websocket]              # [A] protocols that may be upgraded to
    http: proxy                        # [A] what a request with no upgrade gets: `proxy`, or `reject` (426)
"""


def config_of(text: str, environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in `text`, read with no environment but `environ`."""
    return parse(text, FILENAME, environ or {})


def complaints(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the lines that an operator gets for `text`; none if it can be used."""
    try:
        config_of(text, environ)
    except ConfigError as error:
        return str(error).split("\n")
    return []


def route(body: str) -> str:
    """Return a configuration with one route that has `body`, in flow style, besides name and upstream."""
    return MINIMAL.replace("upstream: chat}", f"upstream: chat, {body}}}")


def with_top(line: str) -> str:
    """Return a configuration that begins with `line`, at line 1, and is fine but for it."""
    return f"{line}\n{MINIMAL}"
