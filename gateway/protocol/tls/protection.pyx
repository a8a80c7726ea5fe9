# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled build of ``protection.py``, where each call is described.

It calls the EVP functions of the libcrypto that Python's ``_ssl`` is linked with, found in the loaded library: no
headers are needed to build, and one OpenSSL serves handshakes and records. A cipher context belongs to the process and
gets its key anew for each record: a connection has no object (0.35 us for 64 bytes of AES-256-GCM; 0.22 us with a
context of its own that would cost it a kilobyte).
"""

import _ssl

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)
    char *dlerror()
    int RTLD_LAZY, RTLD_NOLOAD

ctypedef void *(*new_function)() noexcept nogil
ctypedef void (*free_function)(void *) noexcept nogil
ctypedef const void *(*cipher_function)() noexcept nogil
ctypedef int (*init_function)(void *, const void *, void *, const unsigned char *, const unsigned char *) noexcept nogil
ctypedef int (*update_function)(void *, unsigned char *, int *, const unsigned char *, int) noexcept nogil
ctypedef int (*final_function)(void *, unsigned char *, int *) noexcept nogil
ctypedef int (*ctrl_function)(void *, int, int, void *) noexcept nogil

COMPILED = True
cdef enum:
    HEADER = 5
    TAG = 16
    APPLICATION_DATA = 23
    GET_TAG = 0x10  # EVP_CTRL_AEAD_GET_TAG
    SET_TAG = 0x11  # EVP_CTRL_AEAD_SET_TAG
    # as in state.py
    TLS13 = 0x0304
    CHACHA20_POLY1305 = 3
    VERSION = 0
    SUITE = 1
    IN = 2
    OUT = 16
    SEQ = 0
    EXPLICIT = 1
    IV = 2
    KEY = 4

HEADER_BYTES = HEADER
TAG_BYTES = TAG
EXPLICIT_BYTES = 8
SAME_AS_STATE = {
    "TLS13": TLS13, "CHACHA20_POLY1305": CHACHA20_POLY1305, "VERSION": VERSION, "SUITE": SUITE, "IN": IN, "OUT": OUT,
    "SEQ": SEQ, "EXPLICIT": EXPLICIT, "IV": IV, "KEY": KEY,
}
"""What is written here a second time; a test compares it with ``state.py``."""

cdef new_function ctx_new
cdef free_function ctx_free
cdef ctrl_function ctx_ctrl
cdef init_function encrypt_init, decrypt_init
cdef update_function encrypt_update, decrypt_update
cdef final_function encrypt_final, decrypt_final
cdef cipher_function ciphers[4]


cdef void *library = NULL


cdef void *find(const char *name) except NULL:
    """Find a function of the OpenSSL behind ``_ssl``, or in the program itself where that is built in."""
    global library
    cdef bytes path
    cdef void *found
    if library == NULL:
        path = getattr(_ssl, "__file__", "").encode()
        library = dlopen(<char *>path if path else NULL, RTLD_LAZY | (RTLD_NOLOAD if path else 0))
        if library == NULL:
            raise ImportError(f"the library of Python's ssl cannot be opened: {dlerror().decode('utf-8', 'replace')}")
    found = dlsym(library, name)
    if found == NULL:
        raise ImportError(f"{name.decode()} is not in the OpenSSL that Python's ssl has loaded")
    return found


cdef int _load() except -1:
    global ctx_new, ctx_free, ctx_ctrl, encrypt_init, decrypt_init, encrypt_update, decrypt_update
    global encrypt_final, decrypt_final
    ctx_new = <new_function>find("EVP_CIPHER_CTX_new")
    ctx_free = <free_function>find("EVP_CIPHER_CTX_free")
    ctx_ctrl = <ctrl_function>find("EVP_CIPHER_CTX_ctrl")
    encrypt_init = <init_function>find("EVP_EncryptInit_ex")
    decrypt_init = <init_function>find("EVP_DecryptInit_ex")
    encrypt_update = <update_function>find("EVP_EncryptUpdate")
    decrypt_update = <update_function>find("EVP_DecryptUpdate")
    encrypt_final = <final_function>find("EVP_EncryptFinal_ex")
    decrypt_final = <final_function>find("EVP_DecryptFinal_ex")
    ciphers[1] = <cipher_function>find("EVP_aes_128_gcm")
    ciphers[2] = <cipher_function>find("EVP_aes_256_gcm")
    ciphers[3] = <cipher_function>find("EVP_chacha20_poly1305")
    return 0


_load()


cdef inline void _put64(unsigned char *at, uint64_t number) noexcept nogil:
    cdef int i
    for i in range(8):
        at[i] = <unsigned char>(number >> (56 - 8 * i))


cdef inline void _xored(unsigned char *nonce, const unsigned char *iv, uint64_t number) noexcept nogil:
    cdef int i
    memcpy(nonce, iv, 12)
    for i in range(8):
        nonce[4 + i] ^= <unsigned char>(number >> (56 - 8 * i))


cdef class Protection:
    def __dealloc__(self):
        cdef int i
        for i in range(8):
            if self.contexts[i] != NULL:
                ctx_free(self.contexts[i])

    cdef void *_context(self, int64_t suite, bint seals) except NULL:
        cdef int n
        cdef void *context
        if suite < 1 or suite > 3:
            raise ValueError(f"there is no cipher suite {suite}")
        n = 2 * suite + seals
        if self.contexts[n] == NULL:
            context = ctx_new()
            if context == NULL:
                raise MemoryError
            if (encrypt_init if seals else decrypt_init)(context, ciphers[suite](), NULL, NULL, NULL) != 1:
                ctx_free(context)
                raise RuntimeError(f"this OpenSSL does not offer cipher suite {suite}")
            self.contexts[n] = context
        return self.contexts[n]

    cpdef Py_ssize_t open(
        self, int64_t[::1] cells, Py_ssize_t at, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end,
        unsigned char[::1] sink, Py_ssize_t sink_at,
    ) except -2:
        cdef void *context = self._context(cells[at + SUITE], False)
        cdef Py_ssize_t here = at + IN
        cdef const unsigned char *iv = <const unsigned char *>&cells[here + IV]
        cdef const unsigned char *record = &data[start]
        cdef const unsigned char *body = record + HEADER
        cdef Py_ssize_t size = end - start - HEADER - TAG
        cdef unsigned char nonce[12]
        cdef unsigned char extra[13]
        cdef int extra_bytes = HEADER
        cdef int written = 0
        cdef unsigned char rest[16]
        cdef int unused
        if cells[at + VERSION] == TLS13:
            _xored(nonce, iv, cells[here + SEQ])
            memcpy(extra, record, HEADER)
        else:
            if cells[at + SUITE] == CHACHA20_POLY1305:
                _xored(nonce, iv, cells[here + SEQ])
            else:
                if size < 8:
                    return -1
                memcpy(nonce, iv, 4)
                memcpy(&nonce[4], body, 8)
                body += 8
                size -= 8
            _put64(extra, cells[here + SEQ])
            memcpy(&extra[8], record, 3)
            extra[11] = <unsigned char>(size >> 8)
            extra[12] = <unsigned char>(size & 0xFF)
            extra_bytes = 13
        if size < 0 or sink_at + size > sink.shape[0]:
            return -1
        if decrypt_init(context, NULL, NULL, <const unsigned char *>&cells[here + KEY], nonce) != 1:
            raise RuntimeError("libcrypto does not take a key")
        if decrypt_update(context, NULL, &unused, extra, extra_bytes) != 1:
            return -1
        if size > 0 and decrypt_update(context, &sink[sink_at], &written, body, <int>size) != 1:
            return -1
        if ctx_ctrl(context, SET_TAG, TAG, <void *>(body + size)) != 1:
            return -1
        if decrypt_final(context, rest, &unused) != 1:
            return -1
        return size

    cpdef Py_ssize_t seal(
        self, int64_t[::1] cells, Py_ssize_t at, int64_t kind, const unsigned char[::1] data, Py_ssize_t start,
        Py_ssize_t end, unsigned char[::1] sink, Py_ssize_t sink_at,
    ) except -2:
        cdef void *context = self._context(cells[at + SUITE], True)
        cdef Py_ssize_t here = at + OUT
        cdef const unsigned char *iv = <const unsigned char *>&cells[here + IV]
        cdef unsigned char *record = &sink[sink_at]
        cdef unsigned char *body = record + HEADER
        cdef Py_ssize_t size = end - start
        cdef Py_ssize_t length
        cdef unsigned char nonce[12]
        cdef unsigned char extra[13]
        cdef int extra_bytes = HEADER
        cdef int written
        cdef unsigned char content_type = <unsigned char>kind
        cdef bint is_tls13 = cells[at + VERSION] == TLS13
        cdef bint has_explicit = not is_tls13 and cells[at + SUITE] != CHACHA20_POLY1305
        length = size + TAG + (1 if is_tls13 else 8 if has_explicit else 0)
        if sink_at + HEADER + length > sink.shape[0]:
            raise ValueError("there is no room for the record")
        record[0] = APPLICATION_DATA if is_tls13 else content_type
        record[1] = 3
        record[2] = 3
        record[3] = <unsigned char>(length >> 8)
        record[4] = <unsigned char>(length & 0xFF)
        if has_explicit:
            _put64(body, <uint64_t>cells[here + EXPLICIT] + <uint64_t>cells[here + SEQ])
            memcpy(nonce, iv, 4)
            memcpy(&nonce[4], body, 8)
            body += 8
        else:
            _xored(nonce, iv, cells[here + SEQ])
        if is_tls13:
            memcpy(extra, record, HEADER)
        else:
            _put64(extra, cells[here + SEQ])
            memcpy(&extra[8], record, 3)
            extra[11] = <unsigned char>(size >> 8)
            extra[12] = <unsigned char>(size & 0xFF)
            extra_bytes = 13
        if (
            encrypt_init(context, NULL, NULL, <const unsigned char *>&cells[here + KEY], nonce) != 1
            or encrypt_update(context, NULL, &written, extra, extra_bytes) != 1
            or (size > 0 and encrypt_update(context, body, &written, &data[start], <int>size) != 1)
            or (is_tls13 and encrypt_update(context, body + size, &written, &content_type, 1) != 1)
        ):
            raise RuntimeError("libcrypto does not seal a record")
        body += size + is_tls13
        if encrypt_final(context, body, &written) != 1 or ctx_ctrl(context, GET_TAG, TAG, body) != 1:
            raise RuntimeError("libcrypto does not seal a record")
        return HEADER + length
