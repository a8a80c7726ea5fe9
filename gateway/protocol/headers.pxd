# cython: language_level=3
# Types of headers.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

cdef int64_t _LARGEST


@cython.locals(size=int64_t)
cpdef int64_t header_bytes(int64_t second) noexcept
@cython.locals(size=int64_t, i=Py_ssize_t)
cpdef int64_t announced(const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end) noexcept
@cython.locals(pos=Py_ssize_t, size=int64_t)
cpdef Py_ssize_t end_of_messages(
    const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end, int64_t most
) noexcept
