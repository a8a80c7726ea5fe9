"""The PROXY header that names a client to a backend (``upstreams.NAME.proxy_protocol``)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from gateway.protocol.proxy import header_bytes

if TYPE_CHECKING:
    from gateway.edge.trust import Peer
    from gateway.protocol.proxy import Endpoint
    from gateway.routing.upstream import Upstream


def header_for(upstream: Upstream, peer: Peer, client_fd: int) -> bytes:
    """What goes first on a connection to a backend, before TLS; nothing unless the upstream wants a header.

    It names the peer, not whom a trusted peer names in X-Forwarded-For: that may differ from one request to the next,
    and a backend takes the header for all requests on the connection.

    :param client_fd: the client's connection
    """
    version = upstream.proxy_protocol
    if version is None:
        return b""
    if not peer.host or not peer.is_known:
        return header_bytes(version, None, None)
    return header_bytes(version, (peer.host, peer.port), peer.destination or _own_address(client_fd))


def _own_address(fd: int) -> Endpoint | None:
    """The address that a connection was made to; None on a unix socket, or if it has failed."""
    sock = socket.socket(fileno=fd)
    try:
        address = sock.getsockname()
    except OSError:
        return None
    finally:
        sock.detach()
    return address[:2] if isinstance(address, tuple) else None
