"""The OpenSSL behind Python's ``ssl``, for the few of its functions that ``ssl`` has no method for."""

from __future__ import annotations

import ctypes
import os
import ssl
import struct
import sys
from functools import cache

_LOOKED_AT_BYTES = 3 * struct.calcsize("P")
_METHODS = {ssl.PROTOCOL_TLS_SERVER: "TLS_server_method", ssl.PROTOCOL_TLS_CLIENT: "TLS_client_method"}
_VERIFY_MODES = {ssl.CERT_NONE: 0, ssl.CERT_OPTIONAL: 1, ssl.CERT_REQUIRED: 3}
"""``SSL_VERIFY_NONE``, ``SSL_VERIFY_PEER``, and that with ``SSL_VERIFY_FAIL_IF_NO_PEER_CERT``"""


def pointer_of(context: ssl.SSLContext) -> int | None:
    """The ``SSL_CTX`` of a context; None where that is not certain, so that callers do without.

    Python does not give it away: it is the pointer that follows the head of a CPython object (``PySSLContext`` in
    ``Modules/_ssl.c``, from 2.7.9 to 3.14 at least). Nothing is taken on trust. What the pointer leads to is read by
    the kernel, which answers EFAULT where a wrong pointer would end the process. It must have OpenSSL's method of the
    context's protocol (``TLS_server_method()`` …) among its first fields; then OpenSSL is asked, and must agree with
    Python about method, options and verification of the context.

    :param context: made for a server or a client (``PROTOCOL_TLS_SERVER``, ``PROTOCOL_TLS_CLIENT``)
    """
    ours = library()
    name = _METHODS.get(context.protocol)
    if (
        ours is None
        or name is None
        or sys.implementation.name != "cpython"
        or type(context).__basicsize__ < object.__basicsize__ + struct.calcsize("P")
    ):
        return None
    pointer = _behind_head(context)
    method = getattr(ours, name)()
    if pointer is None or not method or method not in _words_at(pointer):
        return None
    if (
        ours.SSL_CTX_get_ssl_method(pointer) != method
        or ours.SSL_CTX_get_options(pointer) != context.options
        or ours.SSL_CTX_get_verify_mode(pointer) != _VERIFY_MODES[context.verify_mode]
    ):
        return None
    return pointer


@cache
def library() -> ctypes.CDLL | None:
    """OpenSSL's libssl, as ``_ssl`` has loaded it; None where ``_ssl`` is built in, or is linked with another one."""
    import _ssl

    try:
        ours = ctypes.CDLL(_ssl.__file__)
        for name in _METHODS.values():
            getattr(ours, name).restype = ctypes.c_void_p
            getattr(ours, name).argtypes = ()
        for name, kind in (
            ("SSL_CTX_get_ssl_method", ctypes.c_void_p),
            ("SSL_CTX_get_options", ctypes.c_uint64 if ssl.OPENSSL_VERSION_INFO >= (3,) else ctypes.c_ulong),
            ("SSL_CTX_get_verify_mode", ctypes.c_int),
        ):
            getattr(ours, name).restype = kind
            getattr(ours, name).argtypes = (ctypes.c_void_p,)
        ours.SSL_CTX_ctrl.restype = ctypes.c_long
        ours.SSL_CTX_ctrl.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p)
    except (AttributeError, OSError):
        return None
    return ours


def _behind_head(context: ssl.SSLContext) -> int | None:
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value


def _words_at(address: int) -> tuple[int, ...]:
    """The first pointers in memory at an address; none if it cannot be read."""
    write = ctypes.CDLL(None).write
    write.restype = ctypes.c_ssize_t
    write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    fd = os.memfd_create("words", os.MFD_CLOEXEC)
    try:
        if write(fd, address, _LOOKED_AT_BYTES) != _LOOKED_AT_BYTES:
            return ()
        return struct.unpack("3P", os.pread(fd, _LOOKED_AT_BYTES, 0))
    finally:
        os.close(fd)
