# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled build of ``traffic.py``, where each function is described. The HMAC is libcrypto's (``protection.pyx``).

It runs right after OpenSSL, which has evicted Python's code from the processor's caches: the fewer instructions, the
better.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from gateway.protocol.tls.protection cimport find

ctypedef const void *(*hash_function)() noexcept nogil
ctypedef unsigned char *(*hmac_function)(
    const void *, const void *, int, const unsigned char *, size_t, unsigned char *, unsigned int *
) noexcept nogil

COMPILED = True
cdef enum:
    MOST_HASH_BYTES = 48
    MOST_LABEL_BYTES = 32
    IV_SIZE = 12
    # as in state.py
    AES_128_GCM = 1
    AES_256_GCM = 2
    CHACHA20_POLY1305 = 3
    IV = 2
    KEY = 4
    SECRET = 8
    DIRECTION_CELLS = 14

SAME_AS_STATE = {
    "AES_128_GCM": AES_128_GCM, "AES_256_GCM": AES_256_GCM, "CHACHA20_POLY1305": CHACHA20_POLY1305, "IV": IV,
    "KEY": KEY, "SECRET": SECRET, "DIRECTION_CELLS": DIRECTION_CELLS,
}
"""What is written here a second time; a test compares it with ``state.py``."""

IV_BYTES = IV_SIZE
KEY_BYTES = {AES_128_GCM: 16, AES_256_GCM: 32, CHACHA20_POLY1305: 32}
HASHES = {AES_128_GCM: "sha256", AES_256_GCM: "sha384", CHACHA20_POLY1305: "sha256"}
HASH_BYTES = {"sha256": 32, "sha384": 48}

cdef hash_function sha256 = <hash_function>find("EVP_sha256")
cdef hash_function sha384 = <hash_function>find("EVP_sha384")
cdef hmac_function hmac = <hmac_function>find("HMAC")


def put_keys(int64_t[::1] cells not None, Py_ssize_t here, int64_t suite, bytes secret not None) -> None:
    cdef Py_ssize_t size = 48 if suite == AES_256_GCM else 32
    cdef const char *given = PyBytes_AS_STRING(secret)
    if not AES_128_GCM <= suite <= CHACHA20_POLY1305 or PyBytes_GET_SIZE(secret) != size:
        raise ValueError(f"cipher suite {suite} with a secret of {len(secret)} bytes")
    if here < 0 or here + DIRECTION_CELLS > cells.shape[0]:
        raise IndexError(f"no direction at cell {here} of {cells.shape[0]}")
    memcpy(&cells[here + SECRET], given, size)
    _expand(given, size, b"key", 3, <unsigned char *>&cells[here + KEY], 16 if suite == AES_128_GCM else 32)
    _expand(given, size, b"iv", 2, <unsigned char *>&cells[here + IV], IV_SIZE)


def expand_label(str algorithm not None, bytes secret not None, bytes label not None, Py_ssize_t size) -> bytes:
    cdef Py_ssize_t most = HASH_BYTES[algorithm]
    cdef unsigned char out[MOST_HASH_BYTES]
    if not 0 <= size <= most or PyBytes_GET_SIZE(secret) != most or PyBytes_GET_SIZE(label) > MOST_LABEL_BYTES:
        raise ValueError(f"{size} bytes of {algorithm}")
    _expand(PyBytes_AS_STRING(secret), most, PyBytes_AS_STRING(label), PyBytes_GET_SIZE(label), out, size)
    return PyBytes_FromStringAndSize(<char *>out, size)


cdef int _expand(
    const char *secret, Py_ssize_t secret_bytes, const char *label, Py_ssize_t label_bytes, unsigned char *to,
    Py_ssize_t size,
) except -1:
    """:param secret_bytes: by which the hash is known"""
    cdef unsigned char info[3 + 6 + MOST_LABEL_BYTES + 2]
    cdef unsigned char out[MOST_HASH_BYTES]
    cdef unsigned int got = 0
    info[0] = 0
    info[1] = <unsigned char>size
    info[2] = <unsigned char>(6 + label_bytes)
    memcpy(&info[3], b"tls13 ", 6)
    memcpy(&info[9], label, label_bytes)
    info[9 + label_bytes] = 0
    info[10 + label_bytes] = 1
    cdef const void *algorithm = sha384() if secret_bytes == 48 else sha256()
    if (
        hmac(algorithm, secret, <int>secret_bytes, info, 11 + label_bytes, out, &got) == NULL
        or <Py_ssize_t>got != secret_bytes
    ):
        raise RuntimeError("libcrypto makes no HMAC")
    memcpy(to, out, size)
    return 0
