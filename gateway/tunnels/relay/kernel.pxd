# cython: language_level=3
from libc.stdint cimport int64_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
        uint64_t u64
    struct epoll_event:
        unsigned int events
        epoll_data_t data

cdef enum:
    EVENTS = 1024


cdef class Kernel:
    cdef int epoll_fd
    cdef readonly object buffer
    cdef readonly Py_ssize_t receive_bytes
    cdef unsigned char[::1] data
    cdef readonly object wire
    cdef unsigned char[::1] wire_data
    cdef epoll_event events[EVENTS]

    cpdef int wait(self, int timeout_ms) except -1
    cdef int event_fd(self, int i) noexcept
    cdef void prefetch(self, int64_t[::1] cells, int64_t at) noexcept
    cdef int event_mask(self, int i) noexcept
    cpdef Py_ssize_t recv(self, int fd) noexcept
    cpdef Py_ssize_t recv_part(self, int fd, Py_ssize_t most) noexcept
    cpdef Py_ssize_t peek(self, int fd, Py_ssize_t most) noexcept
    cdef Py_ssize_t send(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept
    cpdef Py_ssize_t recv_wire(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept
    cpdef Py_ssize_t send_wire(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept
    cpdef Py_ssize_t send_part(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept
    cdef Py_ssize_t send_bytes(self, int fd, bytearray data) noexcept
    cpdef int watch(self, int fd, bint known, unsigned int events) except -1
    cpdef int unwatch(self, int fd) except -1
    cpdef void shut(self, int fd) noexcept
    cpdef void hang_up(self, int fd) noexcept
    cpdef void reset(self, int fd) noexcept
    cpdef void close(self, int fd) noexcept
    cpdef int64_t now(self) noexcept
    cpdef list accept(self, int fd, Py_ssize_t most, int below)
    cpdef int open(self, int family) noexcept
    cpdef Py_ssize_t connect(self, int fd, int family, object address, bytes data) except? 0
    cpdef int error_of(self, int fd) noexcept
    cpdef void limit_unacknowledged(self, int fd, int milliseconds) noexcept
    cpdef object receive(self, int fd, Py_ssize_t most)
    cpdef Py_ssize_t write(self, int fd, bytes data) noexcept
