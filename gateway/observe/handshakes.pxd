# cython: language_level=3
# Types of handshakes.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.
from gateway.observe.batch cimport Batch


cdef class Handshakes:
    cdef public object log
    cdef object _events
    cdef Batch _batch
