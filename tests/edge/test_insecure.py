"""What a client is told when TLS with a backend cannot be established, and the label that is counted."""

from __future__ import annotations

import re

import pytest

from gateway.edge.insecure import reason_of, refusal_of
from gateway.edge.tls.reasons import CLOSED, EXPIRED, FAILED, OK, RESULTS, TIMEOUT, HandshakeFailed
from tests.docs.pages import DOCS, codes, rows

(PAGE,) = (page for page in DOCS if page.name == "metrics.md")


@pytest.mark.parametrize("result", sorted(set(RESULTS) - {OK}))
def test_every_result_has_a_label_that_is_documented(result: str) -> None:
    failure = HandshakeFailed(result, "what OpenSSL says of chat.internal")
    documented = {code for row in rows(PAGE, "## TLS to backends") for code in codes(row[0])}
    assert reason_of(failure) in documented
    refused = refusal_of(failure)
    assert (refused.status, refused.result) == ((504, "timeout") if result == TIMEOUT else (502, "connect_error"))
    assert "chat.internal" not in refused.reason
    assert re.fullmatch(r"[a-z_]+", reason_of(failure))


def test_some() -> None:
    assert reason_of(HandshakeFailed(EXPIRED, "")) == "certificate_expired"
    assert reason_of(HandshakeFailed(CLOSED, "")) == "closed_in_handshake"
    assert reason_of(HandshakeFailed(FAILED, "")) == "handshake_failed"


def test_every_documented_label_occurs() -> None:
    documented = {code for row in rows(PAGE, "## TLS to backends") for code in codes(row[0])}
    assert documented == {reason_of(HandshakeFailed(result, "")) for result in set(RESULTS) - {OK}}
