# cython: language_level=3
# Types of known_heads.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython


@cython.locals(target=bytes)
cpdef bytes target_of(bytes line)


cdef class KnownHeads:
    cdef dict _known

    @cython.locals(end=Py_ssize_t, at=Py_ssize_t, key=bytes, target=bytes)
    cpdef object find(self, bytes data)
