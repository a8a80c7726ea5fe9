# cython: language_level=3
# Types of metering.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

from gateway.protocol.headers cimport end_of_messages
from gateway.tunnels.relay.kernel cimport Kernel
from gateway.tunnels.relay.sealed cimport Sealed

cdef int64_t CLOSING_NS, COMPILED, DIRTY, FD, HALF, HEADER_BYTES, HEADER_LENGTH, HELD, LARGEST_RECORD, OPEN
cdef int64_t PEEKED_BELOW, PEEKED_BYTES, REMAINING, SCANNER, SHORTEST_FRAME, SIDE_0, SIDE_CELLS, STATUS, TLS
cdef int64_t USUAL_MESSAGE


cdef class Metering(Sealed):

    @cython.locals(
        kernel=Kernel, here=int64_t, messages=int64_t, rest=int64_t, size=int64_t, is_cut=bint, got=Py_ssize_t
    )
    cdef void _read_metered(self, int64_t row, int64_t side) except *
    @cython.locals(kernel=Kernel, here=int64_t, half=int64_t, record=bytearray, most=int64_t, got=Py_ssize_t)
    cdef void _read_metered_records(self, int64_t row, int64_t side, int64_t size) except *
    @cython.locals(data="unsigned char[::1]", pos=Py_ssize_t, end=Py_ssize_t)
    cdef Py_ssize_t _whole_records(self, Py_ssize_t got, int64_t size) except -1
