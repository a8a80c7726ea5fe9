"""Explains why a tunnel could not be opened, and what to do about it."""

from __future__ import annotations

import os
import socket
import ssl

from gateway.probe.endpoint import Refused
from gateway.probe.target import Target

_STRIPPED = (
    "it seems to have arrived as an ordinary request: either a proxy on the path strips Upgrade and Connection (nginx "
    "passes them on only with `proxy_http_version 1.1` and `proxy_set_header` for both), or there is no WebSocket here"
)
_BY_STATUS = {
    400: _STRIPPED,
    401: "--header 'Authorization: ...' or --header 'Cookie: ...' sends credentials",
    403: "it may require an --origin, or credentials by --header",
    404: "there is no WebSocket at this path, or a proxy strips Upgrade and Connection",
    405: _STRIPPED,
    407: "it requires credentials: --header 'Proxy-Authorization: ...'",
    426: _STRIPPED,
    429: "it limits the rate of connections",
    502: "the proxy that answers this cannot reach the server behind it",
    503: "the server, or the proxy in front of it, accepts no more requests at the moment",
    504: "the server behind the proxy that answers this does not respond in time",
}


def of_refusal(refused: Refused) -> str:
    """Return the reason why a handshake failed, with a hint if there is one."""
    return f"the handshake was refused: {refused}" + (f" ({hint})" if (hint := _hint(refused)) else "")


def _hint(refused: Refused) -> str:
    status = refused.status
    if status is None:
        return ""
    if 300 <= status < 400 and refused.head is not None:
        location = refused.head.first.get(b"location", b"").decode("latin-1")
        return f"it redirects to {location}: probe that" if location else ""
    return _STRIPPED if 200 <= status < 300 else _BY_STATUS.get(status, "")


def of_connection(target: Target, host: str, port: int, error: Exception) -> str:
    """Return the reason why connecting failed. :param host: the host that was tried"""
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if host != target.host:
        name += f" ({target.host})"
    return f"cannot connect to {name}: {_reason(target, error)}"


def _reason(target: Target, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message} (--insecure skips this check)"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).lower().replace("_", " ")
        return f"no TLS: {reason} (for a server without TLS, use ws://)"
    if isinstance(error, socket.gaierror):
        return f"{target.host} cannot be resolved: {error.strerror}"
    if isinstance(error, TimeoutError) and not error.strerror:
        return "no answer"
    if isinstance(error, ConnectionResetError) and target.tls:
        return "the connection was reset during the TLS handshake"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__
