"""A route's rules together: the first that refuses a request decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.edge.access.addresses import Addresses
from gateway.edge.access.granted import Granted
from gateway.edge.access.origins import Origins
from gateway.edge.refused import Refused

if TYPE_CHECKING:
    from gateway.config import settings
    from gateway.edge.access.method import Cancel, Entering, Method, Verdict, Waiting
    from gateway.edge.trust import Trust

ALLOWED, DENIED, FAILED = "allowed", "denied", "failed"
"""Values of the ``result`` label of ``gateway_auth_total``: FAILED where it could not be found out."""


LATE_SECONDS = 1.0
"""By which an auth server's time-out is left to go first: it says what happened."""

NS = 1_000_000_000


class Access:
    """The rules of a route."""

    def __init__(
        self,
        rules: settings.Access,
        trust: Trust,
        method: Method | None = None,
        count_auth: Callable[[str, str, str], None] = lambda route, method, result: None,
        take_handshake: Callable[[Entering], None] | None = None,
    ) -> None:
        """
        :param trust: knows a client's address
        :param method: by which clients prove who they are
        :param count_auth: counts an answer of that, by route, method and result
        :param take_handshake: counts an upgrade against the limit of its client (``limiting.py``)
        """
        self._trust = trust
        self._addresses = Addresses(rules.allow, rules.deny) if rules.allow or rules.deny else None
        self._origins = Origins(rules.origins) if rules.origins else None
        self._method = method
        forward = rules.auth.forward if rules.auth is not None else None
        self.longest_wait_ns = 0 if forward is None else int((forward.timeout + LATE_SECONDS) * NS)
        """that an answer may take, where the method sees to that itself"""
        self._count_auth = count_auth
        self._take_handshake = take_handshake

    def check(self, request: Entering) -> Granted | Waiting | None:
        """Let a request in.

        :returns: what its credentials have shown, how to wait for that, or None where none are asked for
        :raises Refused: a rule does not
        """
        if self._addresses is not None:
            # Behind a PROXY header without an address, the address is the proxy's.
            is_known = request.peer.is_known
            address = self._trust.address_behind(request.peer, request.client) if is_known else None
            if not self._addresses.allows(address):
                raise Refused(403, "this address is not allowed here", "forbidden", request.route)
        if self._origins is not None:
            refusal = self._origins.refusal(request.head)
            if refusal is not None:
                raise Refused(403, refusal, "forbidden", request.route)
        if self._take_handshake is not None and request.upgrade is not None:
            self._take_handshake(request)
        method = self._method
        if method is None:
            return None
        try:
            answer = method.check(request)
        except Refused as refused:
            refused.route = request.route
            self._count(request, refused)
            raise
        if isinstance(answer, Granted):
            self._count(request, answer)
            return answer
        return self._counted(request, answer)

    def _counted(self, request: Entering, waiting: Waiting) -> Waiting:
        """The same, counted."""

        def start(verdict: Verdict) -> Cancel:
            def count(answer: Granted | Refused) -> None:
                if isinstance(answer, Refused):
                    answer.route = request.route
                self._count(request, answer)
                verdict(answer)

            return waiting(count)

        return start

    def _count(self, request: Entering, answer: Granted | Refused) -> None:
        assert self._method is not None
        result = ALLOWED if isinstance(answer, Granted) else FAILED if answer.status >= 500 else DENIED
        self._count_auth(request.route.name, self._method.name, result)
