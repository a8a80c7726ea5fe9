"""Which contexts OpenSSL's part is found of: only those in which everything is as expected."""

from __future__ import annotations

import ssl
import sys

import pytest

from gateway.edge.tls import openssl
from gateway.edge.tls.openssl import library, pointer_of


@pytest.fixture(params=[ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT])
def context(request: pytest.FixtureRequest) -> ssl.SSLContext:
    return ssl.SSLContext(request.param)


def test_openssl_finds_what_python_has_set(context: ssl.SSLContext) -> None:
    context.options |= ssl.OP_NO_TICKET
    pointer, ours = pointer_of(context), library()
    assert pointer is not None
    assert ours is not None
    assert ours.SSL_CTX_get_options(pointer) == context.options
    assert pointer_of(ssl.SSLContext(context.protocol)) != pointer


class Imitation:
    """As large as a context, with another pointer where OpenSSL's is expected."""

    __slots__ = ("content", "options", "protocol", "verify_mode")

    def __init__(self, content: object, context: ssl.SSLContext) -> None:
        self.content = content  # the first word behind the head points to it
        self.options, self.protocol, self.verify_mode = context.options, context.protocol, context.verify_mode


def test_a_pointer_to_something_else_is_not_taken(context: ssl.SSLContext) -> None:
    assert pointer_of(Imitation("not OpenSSL's" * 10, context)) is None  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("address", [0, 8, 0x7FFF_FFFF_FFFF_F000, 0xFFFF_FFFF_FFFF_FFF0])
def test_a_pointer_to_nowhere_is_harmless(
    monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext, address: int
) -> None:
    monkeypatch.setattr(openssl, "_behind_head", lambda context: address)
    assert pointer_of(context) is None


@pytest.mark.parametrize(
    ("name", "answer"),
    [("SSL_CTX_get_ssl_method", 1), ("SSL_CTX_get_options", 0), ("SSL_CTX_get_verify_mode", 9)],
)
def test_openssl_must_agree_with_python(
    monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext, name: str, answer: int
) -> None:
    monkeypatch.setattr(library(), name, lambda pointer: answer)
    assert pointer_of(context) is None


def test_other_pythons_and_other_contexts(monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext) -> None:
    with pytest.warns(DeprecationWarning, match="PROTOCOL_TLS"):
        assert pointer_of(ssl.SSLContext(ssl.PROTOCOL_TLS)) is None  # neither a server's nor a client's
    with monkeypatch.context() as patch:
        patch.setattr(openssl, "library", lambda: None)
        assert pointer_of(context) is None
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    assert pointer_of(context) is None
