# cython: language_level=3
# Types of forms.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t


cdef class Form:
    cdef readonly str event
    cdef readonly dict fields
    cdef str _json
    cdef list _literals
    cdef bytes _decimals

    cpdef str json(self, str when, object values)


cdef class Clock:
    cdef int64_t _second
    cdef str _text

    @cython.locals(second=int64_t)
    cpdef str text(self, double at)
