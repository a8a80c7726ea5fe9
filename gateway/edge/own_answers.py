"""Answers of the gateway's own, as a route's configuration has them: redirects, texts, further fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge.refused import Refused
from gateway.protocol.framing import request_body
from gateway.protocol.location import NoHost

if TYPE_CHECKING:
    from gateway.edge.request import Request
    from gateway.protocol.heads import Field
    from gateway.routing.answers import OwnAnswer


def own_answer(request: Request, answer: OwnAnswer) -> Refused:
    """Return what a route answers a request, as a refusal that is none.

    :raises Refused: the request has no host, which is needed
    :raises BadHead: where its body ends is ambiguous
    """
    request_body(request.head)  # nobody reads the body, but what follows must not depend on how one would
    target = request.target if request.rewritten is None else request.rewritten.of(request.target)
    try:
        fields, body = answer.to(request.host, target)
    except NoHost as error:
        raise Refused(400, str(error), "bad_request", request.route) from None
    changes = request.route.answer_changes
    if changes is not None:
        fields = changes.applied_to(fields)
    return Refused(answer.status, "", "", None, fields, body)


def further_fields(refused: Refused) -> list[Field]:
    """Return the fields of a refusal with those that its route sets, so far as they do not change what it says."""
    fields = list(refused.fields)
    if refused.route is not None and refused.route.answer_changes is not None:
        fields += refused.route.answer_changes.added_to([*fields, *_OF_REFUSALS])
    return fields


_OF_REFUSALS: tuple[Field, ...] = ((b"Content-Type", b""), (b"Retry-After", b""))
"""Fields that a refusal has by itself."""
