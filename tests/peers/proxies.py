"""nginx and HAProxy, with configurations of the tests' own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.peers.servers import Servers, program
from tests.support.ports import free_port

FORWARDED = "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
# A location that sets one field inherits none.
UPGRADE = f"{FORWARDED} proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"


async def start_nginx(
    servers: Servers, directory: Path, locations: str, connections: int = 256, listen: str = ""
) -> str:
    """Run nginx with these locations; its address.

    :param connections: how many it is to have room for
    :param listen: options of its listener
    """
    address = f"127.0.0.1:{free_port()}"
    (directory / "nginx.conf").write_text(
        f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
        events {{ worker_connections {connections}; }}
        http {{
            access_log off;
            client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
            fastcgi_temp_path {directory}/fcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
            client_max_body_size 0; proxy_buffering off; proxy_request_buffering off;
            proxy_http_version 1.1; {FORWARDED}
            map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
            server {{ listen {address} {listen}; {locations} }}
        }}
        """
    )
    await servers.start(
        program("nginx"), "-p", directory, "-c", directory / "nginx.conf", "-e", "stderr", accepts=address
    )
    return address


async def start_haproxy(
    servers: Servers, directory: Path, backends: Mapping[str, str], tunnel: str = "1h", connections: int = 256
) -> str:
    """Run HAProxy that sends paths below a prefix to a backend, ``/`` last; its address.

    :param tunnel: silence after which it ends a tunnel
    :param connections: how many it is to have room for
    """
    address = f"127.0.0.1:{free_port()}"
    rules = "".join(f"    use_backend b{number} if {{ path_beg {prefix} }}\n" for number, prefix in enumerate(backends))
    servers_ = "".join(
        f"backend b{number}\n    server one {target}\n" for number, target in enumerate(backends.values())
    )
    file = directory / "haproxy.cfg"
    file.write_text(
        f"global\n    maxconn {connections}\n"
        "defaults\n    mode http\n    option forwardfor\n    timeout connect 5s\n    timeout client 30s\n"
        f"    timeout server 30s\n    timeout tunnel {tunnel}\n"
        f"frontend f\n    bind {address}\n{rules}{servers_}"
    )
    await servers.start(program("haproxy"), "-db", "-f", file, accepts=address)
    return address


async def start_plain_nginx(servers: Servers, directory: Path, backend: str) -> str:
    """Run nginx that sends all as it comes to one backend, over connections that it keeps; its address."""
    address = f"127.0.0.1:{free_port()}"
    (directory / "nginx.conf").write_text(
        f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
            fastcgi_temp_path {directory}/fcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
            client_max_body_size 0; proxy_buffering off; proxy_request_buffering off;
            upstream one {{ server {backend}; keepalive 16; }}
            server {{
                listen {address};
                location / {{
                    proxy_pass http://one; proxy_http_version 1.1;
                    proxy_set_header Host $http_host; proxy_set_header Connection "";
                }}
            }}
        }}
        """
    )
    await servers.start(
        program("nginx"), "-p", directory, "-c", directory / "nginx.conf", "-e", "stderr", accepts=address
    )
    return address


async def start_plain_haproxy(servers: Servers, directory: Path, backend: str) -> str:
    """Run HAProxy that sends all to one backend, as it does by default; its address."""
    address = f"127.0.0.1:{free_port()}"
    file = directory / "haproxy.cfg"
    file.write_text(
        "global\n    maxconn 256\n"
        "defaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n"
        f"listen l\n    bind {address}\n    server one {backend}\n"
    )
    await servers.start(program("haproxy"), "-db", "-f", file, accepts=address)
    return address
