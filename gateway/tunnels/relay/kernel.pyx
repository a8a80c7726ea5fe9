# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled build of ``kernel.py``, where each call is described: the same steps with no Python object between."""

import os

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, EINVAL, errno
from libc.string cimport memcpy, memset

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *buf, size_t n, int flags)
    ssize_t c_send "send"(int fd, const void *buf, size_t n, int flags)
    int shutdown(int fd, int how)
    int SHUT_WR, SHUT_RDWR, MSG_NOSIGNAL, MSG_PEEK
    struct sockaddr:
        unsigned short sa_family
    ctypedef unsigned int socklen_t
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    int c_socket "socket"(int family, int kind, int protocol)
    int c_connect "connect"(int fd, const sockaddr *address, socklen_t size)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
    int AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, SO_KEEPALIVE, SO_LINGER
    struct linger:
        int l_onoff
        int l_linger

cdef extern from "<netinet/tcp.h>" nogil:
    int IPPROTO_TCP, TCP_NODELAY, TCP_KEEPIDLE, TCP_USER_TIMEOUT

cdef extern from "<arpa/inet.h>" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        unsigned int sin6_flowinfo
        in6_addr sin6_addr
        unsigned int sin6_scope_id
    unsigned short htons(unsigned short port)
    unsigned short ntohs(unsigned short port)
    unsigned int htonl(unsigned int number)
    int inet_pton(int family, const char *text, void *address)
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts)
    int CLOCK_MONOTONIC

cdef extern from *:
    void __builtin_prefetch(const void *address, int to_write) nogil

COMPILED = True
SPARE_BYTES = 16
WIRE_SPARE_BYTES = 20 * 1024
KEEPALIVE_IDLE_SECONDS = 60
FIRST_BYTES = 32 * 1024
cdef int NO_DELAY = 1
cdef int KEEP_ALIVE = 1
cdef int KEEP_IDLE = KEEPALIVE_IDLE_SECONDS


cdef class Kernel:
    def __init__(self, epoll, buffer_bytes):
        self.epoll_fd = epoll.fileno()
        # Resized, not filled with zeros as by bytearray(size): pages that no traffic has used take no memory.
        self.buffer = bytearray()
        PyByteArray_Resize(self.buffer, buffer_bytes + SPARE_BYTES)
        self.receive_bytes = buffer_bytes
        self.data = self.buffer
        self.wire = bytearray()
        PyByteArray_Resize(self.wire, buffer_bytes + WIRE_SPARE_BYTES)
        self.wire_data = self.wire

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

    cdef void prefetch(self, int64_t[::1] cells, int64_t at) noexcept:
        __builtin_prefetch(&cells[at], 1)

    cpdef Py_ssize_t recv(self, int fd) noexcept:
        cdef Py_ssize_t n = c_recv(fd, &self.data[0], self.receive_bytes, 0)
        return n if n >= 0 else -errno

    cpdef Py_ssize_t recv_part(self, int fd, Py_ssize_t most) noexcept:
        cdef Py_ssize_t n = c_recv(fd, &self.data[0], most, 0)
        return n if n >= 0 else -errno

    cpdef Py_ssize_t peek(self, int fd, Py_ssize_t most) noexcept:
        cdef Py_ssize_t n = c_recv(fd, &self.data[0], most, MSG_PEEK)
        return n if n >= 0 else -errno

    cdef Py_ssize_t send(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept:
        cdef Py_ssize_t n = c_send(fd, &self.data[start], end - start, MSG_NOSIGNAL)
        return n if n >= 0 else -errno

    cpdef Py_ssize_t recv_wire(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept:
        cdef Py_ssize_t n = c_recv(fd, &self.wire_data[start], end - start, 0)
        return n if n >= 0 else -errno

    cpdef Py_ssize_t send_wire(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept:
        cdef Py_ssize_t n = c_send(fd, &self.wire_data[start], end - start, MSG_NOSIGNAL)
        return n if n >= 0 else -errno

    cpdef Py_ssize_t send_part(self, int fd, Py_ssize_t start, Py_ssize_t end) noexcept:
        return self.send(fd, start, end)

    cdef Py_ssize_t send_bytes(self, int fd, bytearray data) noexcept:
        cdef Py_ssize_t n = c_send(fd, PyByteArray_AS_STRING(data), PyByteArray_GET_SIZE(data), MSG_NOSIGNAL)
        return n if n >= 0 else -errno

    cpdef int watch(self, int fd, bint known, unsigned int events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.u64 = 0
        event.data.fd = fd
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD if known else EPOLL_CTL_ADD, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
            return -1
        return 0

    cpdef int unwatch(self, int fd) except -1:
        cdef epoll_event event
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
            return -1
        return 0

    cpdef void shut(self, int fd) noexcept:
        shutdown(fd, SHUT_WR)

    cpdef void hang_up(self, int fd) noexcept:
        shutdown(fd, SHUT_RDWR)

    cpdef void reset(self, int fd) noexcept:
        cdef linger how
        how.l_onoff = 1
        how.l_linger = 0
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &how, sizeof(how))

    cpdef void close(self, int fd) noexcept:
        c_close(fd)

    cpdef list accept(self, int fd, Py_ssize_t most, int below):
        cdef list found = []
        cdef sockaddr_in6 address
        cdef socklen_t size
        cdef int connection
        while len(found) < most:
            size = sizeof(address)
            connection = accept4(fd, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if connection < 0:
                found.append((-errno, None, EAGAIN))
                break
            if connection >= below:
                most = 0
            found.append((connection, _peer(<sockaddr *>&address), self.receive(connection, FIRST_BYTES)))
        return found

    cpdef int open(self, int family) noexcept:
        cdef int fd = c_socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if fd < 0:
            return -errno
        if family != AF_UNIX:
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &NO_DELAY, sizeof(int))
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &KEEP_ALIVE, sizeof(int))
            setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &KEEP_IDLE, sizeof(int))
        return fd

    cpdef Py_ssize_t connect(self, int fd, int family, object address, bytes data) except? 0:
        cdef sockaddr_in four
        cdef sockaddr_in6 six
        cdef sockaddr_un unix
        cdef bytes text
        cdef int result
        cdef Py_ssize_t sent
        if family == AF_INET:
            memset(&four, 0, sizeof(four))
            text = (<str>address[0]).encode("ascii")
            four.sin_family = AF_INET
            four.sin_port = htons(address[1])
            if inet_pton(AF_INET, text, &four.sin_addr) != 1:
                return -EINVAL
            result = c_connect(fd, <sockaddr *>&four, sizeof(four))
        elif family == AF_INET6:
            memset(&six, 0, sizeof(six))
            text = (<str>address[0]).partition("%")[0].encode("ascii")
            six.sin6_family = AF_INET6
            six.sin6_port = htons(address[1])
            if len(address) == 4:
                six.sin6_flowinfo = htonl(address[2])
                six.sin6_scope_id = address[3]
            if inet_pton(AF_INET6, text, &six.sin6_addr) != 1:
                return -EINVAL
            result = c_connect(fd, <sockaddr *>&six, sizeof(six))
        else:
            memset(&unix, 0, sizeof(unix))
            text = os.fsencode(address)
            if len(text) >= sizeof(unix.sun_path):
                return -EINVAL
            unix.sun_family = AF_UNIX
            memcpy(unix.sun_path, <char *>text, len(text))
            result = c_connect(fd, <sockaddr *>&unix, sizeof(unix))
        if result < 0 and errno != EINPROGRESS:
            return -errno
        sent = self.write(fd, data)
        return 0 if sent == -EAGAIN or sent == -EINTR else sent

    cpdef int error_of(self, int fd) noexcept:
        cdef int error = 0
        cdef socklen_t size = sizeof(error)
        return error if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 else errno

    cpdef void limit_unacknowledged(self, int fd, int milliseconds) noexcept:
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof(int))

    cpdef object receive(self, int fd, Py_ssize_t most):
        # Into the worker's buffer first: most of what is asked for does not come.
        cdef Py_ssize_t n = c_recv(fd, &self.data[0], min(most, self.receive_bytes), 0)
        if n < 0:
            return errno
        return PyBytes_FromStringAndSize(<char *>&self.data[0], n)

    cpdef Py_ssize_t write(self, int fd, bytes data) noexcept:
        cdef Py_ssize_t n = c_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL)
        return n if n >= 0 else -errno

    cpdef int64_t now(self) noexcept:
        cdef timespec ts
        clock_gettime(CLOCK_MONOTONIC, &ts)
        return <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec


cdef tuple _peer(sockaddr *address):
    cdef char text[64]
    if address.sa_family == AF_INET:
        inet_ntop(AF_INET, &(<sockaddr_in *>address).sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs((<sockaddr_in *>address).sin_port)
    if address.sa_family == AF_INET6:
        inet_ntop(AF_INET6, &(<sockaddr_in6 *>address).sin6_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs((<sockaddr_in6 *>address).sin6_port)
    return None
