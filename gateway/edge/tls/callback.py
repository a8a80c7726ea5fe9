"""The key log by a callback of OpenSSL's. Only the compiled build can have one; this is the other, which has none."""

from __future__ import annotations

from collections.abc import Mapping

COMPILED = False


def attach(pointer: int) -> bool:
    """Have OpenSSL call back with each line of a context's key log.

    :param pointer: the ``SSL_CTX`` (:func:`gateway.edge.tls.openssl.pointer_of`)
    :returns: whether it will
    """
    return False


def take() -> Mapping[str, bytes]:
    """The secrets that this thread's calls of OpenSSL have logged since the last call, as
    :func:`gateway.protocol.tls.keylog.secrets_of` returns them. They are wiped here."""
    return {}
