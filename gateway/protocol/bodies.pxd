# cython: language_level=3
# Types of bodies.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

cdef int64_t _LARGEST_BEFORE_DIGIT, _SIZE, _MORE_SIZE, _PADDING, _EXTENSION, _SIZE_LF, _DATA, _DATA_CR, _DATA_LF
cdef int64_t _TRAILER, _NAME, _VALUE, _TRAILER_LF, _END_LF, _DONE, _BROKEN
cdef int64_t _TAB, _LF, _CR, _SPACE, _COLON, _SEMICOLON, _DELETE


cdef class Framer:
    cdef readonly bint complete
    cdef readonly int64_t received
    cdef readonly int64_t remaining
    cdef readonly bint until_close

    cpdef Py_ssize_t scan(self, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end) except -1


cdef class Length(Framer):
    @cython.locals(size=Py_ssize_t)
    cpdef Py_ssize_t scan(self, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end) except -1


cdef class UntilClose(Framer):
    cpdef Py_ssize_t scan(self, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end) except -1


cdef class Chunked(Framer):
    cdef readonly Py_ssize_t trailer
    cdef int64_t _state
    cdef int64_t _size
    cdef int64_t _line
    cdef int64_t _max_line
    cdef int64_t _max_trailer
    cdef bint _padded
    cdef frozenset _forbidden
    cdef bytearray _name
    cdef list _slices

    @cython.locals(pos=Py_ssize_t, state=int64_t, size=Py_ssize_t, byte=int64_t, digit=int64_t)
    cpdef Py_ssize_t scan(self, const unsigned char[::1] data, Py_ssize_t start, Py_ssize_t end) except -1
    cdef int64_t _read_trailer(self, int64_t state, int64_t byte) except -1
    cdef int _refuse(self, str reason) except -1


cdef class Dechunker(Chunked):
    pass


cdef int64_t _hex_digit(int64_t byte) noexcept
cdef bint _is_control(int64_t byte) noexcept
cdef bint _is_token(int64_t byte) noexcept
cdef int64_t _plain(int64_t byte) noexcept
