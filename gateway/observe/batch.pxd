# cython: language_level=3
# Types of batch.py in the compiled build; see "One source, two builds" in ARCHITECTURE.md.


cdef class Batch:
    cdef object _loop, _timer
    cdef list _calls
    cdef object _counts, _observed

    cpdef object count(self, object counter)
    cpdef object observe(self, object distribution, object value)
