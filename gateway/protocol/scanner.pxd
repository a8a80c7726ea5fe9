# cython: language_level=3
# Types of scanner.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

cdef int64_t BINARY, BROKEN, CLOSE, CLOSE_CODE, CLOSED, CONTINUATION, CONTROL_READ, DATA_AT, FRAMES, HEADER_HIGH
cdef int64_t HEADER_LENGTH, HEADER_LOW, MASK, MASKING, MESSAGE, NO_STATUS, OPCODE, OPCODES, PING, PING_AT, PING_ID, PONG, PONG_AT, PONG_ID
cdef int64_t DIGEST, DIGEST_FACTOR, DIGEST_MODULUS, PEER, EXTENDED, PLAIN, REMAINING, REST, REST_MASKED, REST_UNMASKED, SCANNER_CELLS, STATUS, STOP


@cython.locals(
    pos=Py_ssize_t, remaining=int64_t, opcode=int64_t, kept=int64_t, masking=int64_t, message=int64_t, before=int64_t, partial=int64_t, frames=int64_t,
    seen_data=bint, broken=bint, low=int64_t, high=int64_t, need=int64_t, first=int64_t, second=int64_t, size=int64_t,
    mask=int64_t, i=Py_ssize_t, head=Py_ssize_t, rest=int64_t,
)
cpdef Py_ssize_t scan(
    int64_t[::1] cells, Py_ssize_t s, Py_ssize_t c, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end,
    int64_t now, int stop,
) except -1

@cython.locals(second=int64_t, size=int64_t)
cdef int64_t _header_size(int64_t low, int64_t kept) noexcept

cdef int64_t _shifted(int64_t byte, int64_t places) noexcept

@cython.locals(got=int64_t, byte=int64_t, mask=int64_t, digest=int64_t, peer=int64_t, whole=bint, stop=Py_ssize_t)
@cython.cdivision(True)
cdef int _read_control(
    int64_t[::1] cells, Py_ssize_t s, int64_t opcode, const unsigned char[::1] data, Py_ssize_t pos, Py_ssize_t end,
    int64_t left, int64_t now,
) except -1


cdef class FrameScanner:
    cdef int64_t[::1] cells
