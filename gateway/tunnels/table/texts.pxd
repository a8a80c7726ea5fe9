# cython: language_level=3
# Types of texts.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
cimport cython
from libc.stdint cimport int64_t

cdef int64_t _PREFIX
cdef tuple _MOST, _PLACES

@cython.locals(last=Py_ssize_t, end=Py_ssize_t, start=Py_ssize_t, length=Py_ssize_t, size=Py_ssize_t, found=list)
cpdef list unpack(bytes data, tuple sizes)
@cython.locals(found=list, texts=list, text=bytes, place=Py_ssize_t)
cpdef list texts_of(bytes data)
@cython.locals(texts=tuple, parts=list, text=bytes, at=Py_ssize_t, length=Py_ssize_t, size=Py_ssize_t)
cpdef bytes packed(bytes client, bytes host, bytes path, bytes subprotocol, bytes request_id)
