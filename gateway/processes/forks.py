"""What the supervisor and the template process send each other (``template.py``)."""

from __future__ import annotations

import json
import os
import socket
from errno import EMFILE
from typing import NamedTuple

REQUEST_BYTES = 16 * 1024
ANSWER_BYTES = 32
MAX_DESCRIPTORS = 16


class Template(NamedTuple):
    """A running template as the supervisor has it."""

    pid: int
    control: int
    """descriptor of the supervisor's end of the socket pair (SOCK_SEQPACKET)"""


class Request(NamedTuple):
    """What a worker starts with."""

    slot: int
    metrics: str
    """directory of the workers' metrics files"""
    descriptors: list[int]
    """its ends of the control channel and of the store's socket pair, the table, the quotas, and others that it only
    keeps open"""


def send_request(control: socket.socket, request: Request) -> None:
    """Ask for a worker. :raises OSError: the template is gone, or too many descriptors are in flight"""
    message = json.dumps([request.slot, request.metrics, len(request.descriptors)]).encode()
    socket.send_fds(control, [message], request.descriptors)


def receive_request(control: socket.socket) -> Request | None:
    """Return the next request, or None when the supervisor is gone.

    :raises OSError: this process has no room for the descriptors; those that came have been closed
    """
    try:
        message, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    if not message:
        return None
    slot, metrics, count = json.loads(message)
    if len(descriptors) != count:
        for fd in descriptors:
            os.close(fd)
        raise OSError(EMFILE, os.strerror(EMFILE))
    return Request(slot, metrics, descriptors)


def to_answer(result: int) -> bytes:
    """Return an answer. :param result: the worker's pid, or a negative errno"""
    return str(result).encode()


def pid_in(answer: bytes) -> int:
    """Return the pid of the worker that was started. :raises OSError: none was"""
    result = int(answer)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
