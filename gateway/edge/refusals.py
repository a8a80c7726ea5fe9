"""Metrics and log lines of requests that are refused for what they say, or for whom they come from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.observe.requests import Logged
from gateway.protocol.heads import RequestHead
from gateway.protocol.websocket import requested_upgrades

if TYPE_CHECKING:
    from gateway.edge.request import Request
    from gateway.edge.trust import Peer
    from gateway.observe.handshakes import Handshakes
    from gateway.observe.requests import Requests
    from gateway.routing.routes import Route


class Refusals:
    """Counts and logs them."""

    def __init__(self, handshakes: Handshakes, requests: Requests) -> None:
        self.handshakes = handshakes
        self.requests = requests

    def unread(self, peer: Peer, served: bool, status: int, reason: str, result: str, started_ns: int) -> None:
        """Report a request whose head could not be read.

        :param served: whether a plain request has come on the connection. On a new one this counts as a handshake:
            most connections here begin with one
        """
        if served:
            self._plain(RequestHead(), str(peer), None, None, status, reason, started_ns)
        else:
            self.handshakes.refused(str(peer), None, result, status, reason, started_ns)

    def unserved(
        self, head: RequestHead, peer: Peer, route: Route | None, status: int, reason: str, result: str, started_ns: int
    ) -> None:
        """Report a request that asks for nothing that there is. :param route: None where it has none"""
        name = route.name if route is not None else None
        if _is_handshake(head):
            self.handshakes.refused(str(peer), name, result, status, reason, started_ns)
        else:
            self._plain(head, str(peer), None, name, status, reason, started_ns)

    def refused(self, request: Request, status: int, reason: str, result: str) -> None:
        """Report a request with a route."""
        head = request.head
        if request.upgrade is None and not _is_handshake(head):
            self._plain(head, request.client, request, request.route.name, status, reason, request.started_ns)
            return
        self.handshakes.ended(
            request.logged(),
            result,
            status,
            reason,
            None,
        )

    def answered(self, request: Request, status: int, body_bytes: int) -> None:
        """Report a request that its route answers itself: a plain one, whatever it has asked for.

        :param body_bytes: of the answer
        """
        head = request.head
        sent = 0 if head.method == b"HEAD" else body_bytes
        self._plain(head, request.client, request, request.route.name, status, None, request.started_ns, sent)

    def _plain(
        self,
        head: RequestHead,
        client: str,
        request: Request | None,
        route: str | None,
        status: int,
        reason: str | None,
        started_ns: int,
        body_bytes: int = 0,
    ) -> None:
        self.requests.ended(
            Logged(
                request.request_id if request else None,
                client,
                request.user if request else None,
                route,
                None,
                head.method.decode("latin-1"),
                request.host if request else head.first.get(b"host", b"").decode("latin-1"),
                request.path if request else _path_of(head),
                status,
                None,
                None,
                reason,
                0,
                body_bytes,
                None,
                (time.monotonic_ns() - started_ns) / 1e9,
            )
        )


def _path_of(head: RequestHead) -> str:
    """A target that was not understood, without query and fragment: these may hold a token."""
    return head.target.partition(b"?")[0].partition(b"#")[0].decode("latin-1")


def _is_handshake(head: RequestHead) -> bool:
    """Whether a request was to open a tunnel, stripped or not."""
    return bool(requested_upgrades(head)) or b"sec-websocket-key" in head.first
