# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The compiled build of ``line.py``, where the function is described."""

import json

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_Free
from libc.math cimport signbit
from libc.string cimport memcpy, strlen

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char *PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    object PyUnicode_DecodeASCII(const char *text, Py_ssize_t size, const char *errors)
    char *PyOS_double_to_string(double value, char code, int precision, int flags, int *kind) except NULL
    int Py_DTSF_ADD_DOT_0

COMPILED = True
cdef enum:
    ROOM = 4096
    MOST_DIGITS = 24  # of an integer, with its sign
    AS_IT_IS = 255
    MOST_DECIMALS = 6

cdef double SCALES[MOST_DECIMALS + 1]
SCALES[:] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6]
cdef double EXACT_BELOW = 1e12
"""Scaled values below it are off by a thousandth at most, so that rounding is certain unless a half is that near."""

NOT_DECIMAL = AS_IT_IS

cdef object escaped = json.encoder.encode_basestring_ascii


cdef Py_ssize_t put(char *room, Py_ssize_t at, const char *data, Py_ssize_t size) noexcept:
    """Append; -1 if there is no room."""
    if at < 0 or size > ROOM - at:
        return -1
    memcpy(room + at, data, size)
    return at + size


cdef Py_ssize_t put_text(char *room, Py_ssize_t at, object text) except -2:
    cdef const char *data
    cdef Py_ssize_t size, i
    if PyUnicode_IS_COMPACT_ASCII(text):
        data = PyUnicode_DATA(text)
        size = PyUnicode_GET_LENGTH(text)
        if at < 0 or size > ROOM - at - 2:
            return -1
        room[at] = c'"'
        for i in range(size):
            if not 0x20 <= data[i] < 0x7F or data[i] == c'"' or data[i] == c'\\':
                break
            room[at + 1 + i] = data[i]
        else:
            room[at + 1 + size] = c'"'
            return at + size + 2
    text = escaped(text)
    return put(room, at, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))


cdef Py_ssize_t put_integer(char *room, Py_ssize_t at, long long value) noexcept:
    cdef char digits[MOST_DIGITS]
    cdef int first = MOST_DIGITS
    cdef unsigned long long left = -<unsigned long long>value if value < 0 else value
    while True:
        first -= 1
        digits[first] = c'0' + left % 10
        left //= 10
        if not left:
            break
    if value < 0:
        first -= 1
        digits[first] = c'-'
    return put(room, at, digits + first, MOST_DIGITS - first)


cdef Py_ssize_t put_fixed(char *room, Py_ssize_t at, unsigned long long scaled, int decimals) noexcept:
    """Append a number that was multiplied by a power of ten."""
    cdef char digits[MOST_DIGITS]
    cdef int first = MOST_DIGITS
    cdef int left = decimals
    while left:
        first -= 1
        left -= 1
        digits[first] = c'0' + scaled % 10
        scaled //= 10
    if decimals:
        first -= 1
        digits[first] = c'.'
    while True:
        first -= 1
        digits[first] = c'0' + scaled % 10
        scaled //= 10
        if not scaled:
            break
    return put(room, at, digits + first, MOST_DIGITS - first)


cdef Py_ssize_t put_decimal(char *room, Py_ssize_t at, double value, int decimals) except -2:
    cdef char *text
    cdef double scaled, rest
    cdef unsigned long long number
    if decimals <= MOST_DECIMALS and not signbit(value):
        scaled = value * SCALES[decimals]
        if scaled < EXACT_BELOW:
            number = <unsigned long long>scaled
            rest = scaled - <double>number
            if not 0.499 < rest < 0.501:
                return put_fixed(room, at, number + (rest > 0.5), decimals)
    if decimals == AS_IT_IS:
        text = PyOS_double_to_string(value, c'r', 0, Py_DTSF_ADD_DOT_0, NULL)
    else:
        text = PyOS_double_to_string(value, c'f', decimals, 0, NULL)
    at = put(room, at, text, strlen(text))
    PyMem_Free(text)
    return at


def json_line(list literals, bytes decimals, str when, values):
    cdef char room[ROOM]
    cdef Py_ssize_t at, i = 0
    cdef int overflow = 0
    cdef long long number
    cdef bytes literal = literals[0]
    at = put(room, 0, PyBytes_AS_STRING(literal), PyBytes_GET_SIZE(literal))
    at = put(room, at, PyUnicode_DATA(when), PyUnicode_GET_LENGTH(when))
    for value in values:
        literal = literals[i + 1]
        at = put(room, at, PyBytes_AS_STRING(literal), PyBytes_GET_SIZE(literal))
        if type(value) is str:
            at = put_text(room, at, value)
        elif value is None:
            at = put(room, at, "null", 4)
        elif type(value) is int and decimals[i] == AS_IT_IS:
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow:
                return None
            at = put_integer(room, at, number)
        elif type(value) is float:
            at = put_decimal(room, at, PyFloat_AS_DOUBLE(value), decimals[i])
        else:
            return None
        if at < 0:
            return None
        i += 1
    literal = literals[i + 1]
    at = put(room, at, PyBytes_AS_STRING(literal), PyBytes_GET_SIZE(literal))
    return None if at < 0 else PyUnicode_DecodeASCII(room, at, NULL)
