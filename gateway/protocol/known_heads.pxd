# cython: language_level=3
# Types of known_heads.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython


cdef bytes _KINDS, _BEFORE, _BEHIND
cdef Py_ssize_t _KEY_BYTES

@cython.locals(at=Py_ssize_t)
cpdef bint consists_of(int kind, bytes data, Py_ssize_t start, Py_ssize_t end)
@cython.locals(last=Py_ssize_t)
cpdef bytes target_of(bytes data, Py_ssize_t end)


cdef class KnownHeads:
    cdef dict _known

    @cython.locals(end=Py_ssize_t, at=Py_ssize_t, key=bytes, target=bytes)
    cpdef object find(self, bytes data)
