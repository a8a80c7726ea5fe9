"""What of a request decides its backend, and the cookie that has its client come back there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.edge.request import Request
    from gateway.edge.trust import Trust
    from gateway.routing.balancing import Target


def key_of(request: Request, trust: Trust) -> bytes | None:
    """What the policy of a request's upstream looks at; None if it looks at nothing.

    A request that lacks what ``hash_on`` names goes by its client's address, which all of them have.
    """
    upstream = request.upstream
    found = b"" if upstream.key_of is None else upstream.key_of(request.head, request.target)
    if found or not upstream.hashes:
        return found or None
    address = trust.address_of(request.client)
    return (request.client if address is None else str(address)).encode()


def with_cookie(head: bytes, request: Request, target: Target) -> bytes:
    """The head of an answer, with the cookie of a client that does not have the right one.

    :param head: as it is sent without
    :param target: the backend that has answered
    """
    sticky = request.upstream.sticky
    if sticky is None:
        return head
    assert request.upstream.key_of is not None
    value = request.upstream.key_of(request.head, request.target)
    line = sticky.set_cookie(value, target, _is_secure(request))
    return head[:-2] + line + head[-2:] if line else head


def _is_secure(request: Request) -> bool:
    """Whether the client speaks TLS, with this gateway or with a trusted proxy in front."""
    peer = request.peer
    if peer.trusted and (proto := request.head.first.get(b"x-forwarded-proto")):
        return proto.rpartition(b",")[2].strip(b" \t").lower() in (b"https", b"wss")
    return peer.is_tls
