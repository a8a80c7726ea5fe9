# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled build of ``kernel.py``, where each call is described: the same steps with no Python object between."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, ENOENT, errno

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *buf, size_t n, int flags)
    ssize_t c_send "send"(int fd, const void *buf, size_t n, int flags)
    int shutdown(int fd, int how)
    int SHUT_WR, SHUT_RDWR, MSG_NOSIGNAL

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts)
    int CLOCK_MONOTONIC

COMPILED = True
SPARE_BYTES = 16


cdef class Kernel:
    def __init__(self, epoll, buffer_bytes):
        self.epoll_fd = epoll.fileno()
        self.buffer = bytearray(buffer_bytes + SPARE_BYTES)
        self.receive_bytes = buffer_bytes
        self.data = self.buffer

    cpdef int wait(self, int timeout_ms) except -1:
        cdef int n
        if timeout_ms == 0:
            n = epoll_wait(self.epoll_fd, self.events, EVENTS, 0)
        else:
            with nogil:
                n = epoll_wait(self.epoll_fd, self.events, EVENTS, timeout_ms)
        if n < 0:
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
                return -1
            PyErr_CheckSignals()
            return 0
        return n

    cdef int event_fd(self, int i) noexcept:
        return self.events[i].data.fd

    cdef int event_mask(self, int i) noexcept:
        return self.events[i].events

    cpdef Py_ssize_t recv(self, int fd) noexcept:
        cdef Py_ssize_t n = c_recv(fd, &self.data[0], self.receive_bytes, 0)
        return n if n >= 0 else -errno

    cdef Py_ssize_t send(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept:
        cdef Py_ssize_t n = c_send(fd, &self.data[start], end - start, MSG_NOSIGNAL)
        return n if n >= 0 else -errno

    cdef Py_ssize_t send_bytes(self, int fd, bytearray data) noexcept:
        cdef Py_ssize_t n = c_send(fd, PyByteArray_AS_STRING(data), PyByteArray_GET_SIZE(data), MSG_NOSIGNAL)
        return n if n >= 0 else -errno

    cdef int watch(self, int fd, bint known, unsigned int events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.u64 = 0
        event.data.fd = fd
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD if known else EPOLL_CTL_ADD, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
            return -1
        return 0

    cdef int unwatch(self, int fd) except -1:
        cdef epoll_event event
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
            return -1
        return 0

    cdef void shut(self, int fd) noexcept:
        shutdown(fd, SHUT_WR)

    cdef void hang_up(self, int fd) noexcept:
        shutdown(fd, SHUT_RDWR)

    cdef void close(self, int fd) noexcept:
        c_close(fd)

    cdef int64_t now(self) noexcept:
        cdef timespec ts
        clock_gettime(CLOCK_MONOTONIC, &ts)
        return <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec
