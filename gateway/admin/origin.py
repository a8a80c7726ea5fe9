"""Which requests the admin address answers: none that a page of another web site may have sent.

A browser on a machine that can reach the admin address lets such a page send requests in two ways:

- The page asks for the address directly. The browser adds ``Origin`` or ``Sec-Fetch-Site`` (Fetch Metadata), which name
  the other site: 403. A link that a person follows is allowed, as the page cannot read what the browser then shows.
- The page asks for its own site's name, which now resolves to this address (DNS rebinding). To the browser that is one
  site, and only ``Host`` shows it: 421 (RFC 9110 15.5.20), except for names that an outsider cannot point here.

A browser cannot connect to a unix socket, so there any ``Host`` is accepted.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from gateway.admin.messages import Refused, Request
from gateway.observe.seldom import Seldom

ANY_HOST = frozenset({"/healthz", "/readyz"})
"""Paths for load balancers, which send any ``Host``. The answers hold nothing but the state of the gateway."""

log = logging.getLogger("gateway")


class OtherSites:
    """Refuses requests that a page of another site may have sent."""

    def __init__(self, allowed: Callable[[], Collection[str]], over_tcp: bool) -> None:
        """
        :param allowed: returns further names to answer to: ``name``, or ``*.name`` for all names under it
        :param over_tcp: false if the admin address is a unix socket
        """
        self._allowed = allowed
        self._over_tcp = over_tcp
        self._warn = Seldom(log.warning)

    def refuse(self, request: Request) -> None:
        """:raises Refused: a page of another site may have sent it"""
        hosts = request.values("host")
        names = self._allowed()
        if self._over_tcp and request.path not in ANY_HOST:
            for host in hosts:
                if not is_host_allowed(host, names):
                    self._warn(
                        "admin: refused a request for host %r; if this gateway has that name, list it in admin.hosts",
                        host[:100],
                    )
                    raise Refused(
                        421,
                        "the admin address is not known by this host name (another site could have pointed it"
                        " here); use an IP address, localhost or the host name of the gateway's machine, or list the"
                        " name in admin.hosts",
                    )
        if not is_same_origin(request, hosts[0] if hosts else "", names):
            raise Refused(403, "this request comes from a web page of another site")


def is_host_allowed(field: str, allowed: Collection[str]) -> bool:
    """Whether an outsider cannot have pointed this host at the admin address.

    That holds for IP addresses, for ``localhost`` and names under it, which browsers resolve to loopback themselves
    (RFC 6761 6.3), and for the machine's host name. The port may be any: ``ssh -L`` changes it.

    :param field: ``Host``, with or without a port
    :param allowed: further names, in lower case: ``name``, or ``*.name`` for all names under it
    """
    if set(field) & set("@/?#\\"):
        return False
    try:
        host = (urlsplit(f"//{field}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return True
    own = socket.gethostname().lower()
    if host in ("localhost", own, own.partition(".")[0]) or host.endswith(".localhost"):
        return bool(host)
    return any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in allowed)


def is_same_origin(request: Request, host: str, allowed: Collection[str]) -> bool:
    """Whether a request was sent by a page of the admin address itself, or by no page at all.

    :param host: the request's ``Host``
    :param allowed: as for :func:`is_host_allowed`
    """
    site = request.value("sec-fetch-site")
    if site is not None and site.lower() not in ("same-origin", "none") and not _is_followed_link(request):
        return False
    origin = request.value("origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return bool(parts.netloc) and parts.netloc.lower() == host.lower() and is_host_allowed(host, allowed)


def _is_followed_link(request: Request) -> bool:
    """Whether the browser will show the answer as a page, in a tab of its own."""
    as_page = request.value("sec-fetch-mode"), request.value("sec-fetch-dest")
    return request.method in ("GET", "HEAD") and as_page == ("navigate", "document")
