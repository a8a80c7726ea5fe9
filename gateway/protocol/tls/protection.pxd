# cython: language_level=3
from libc.stdint cimport int64_t


cdef void *find(const char *name) except NULL


cdef class Protection:
    cdef void *contexts[8]

    cpdef Py_ssize_t open(
        self, int64_t[::1] cells, Py_ssize_t at, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end,
        unsigned char[::1] sink, Py_ssize_t sink_at,
    ) except -2
    cpdef Py_ssize_t seal(
        self, int64_t[::1] cells, Py_ssize_t at, int64_t kind, const unsigned char[::1] data, Py_ssize_t start,
        Py_ssize_t end, unsigned char[::1] sink, Py_ssize_t sink_at,
    ) except -2
    cdef void *_context(self, int64_t suite, bint seals) except NULL
