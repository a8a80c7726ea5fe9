# cython: language_level=3
# Types of pings.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

cdef int64_t FINAL, MASKED, PAYLOAD, PING, PONG


@cython.locals(at=Py_ssize_t, value=int64_t, byte=int64_t, i=Py_ssize_t)
cpdef int64_t own_pong(
    const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end, bint masked, int64_t tag, int64_t answered,
    int64_t sent,
) except -2

cpdef Py_ssize_t pong_size(bint masked) noexcept
