"""The template process: it has imported all that a worker needs, and workers are forked from it.

A fork starts within milliseconds and shares the memory of what was imported. The template runs no event loop and no
thread, and has no descriptor open but its end of a socket pair, so a worker inherits nothing that it should not have.
Usually the template is forked itself, from a program that has imported nothing else yet (:func:`fork_template`). Its
replacement is a fresh interpreter: ``python -m gateway.processes.template FD``.

The supervisor sends a request with the worker's descriptors, and receives the worker's pid (``forks.py``,
``starting.py``). A worker is forked twice: the process in between exits at once, and the
supervisor, which adopts orphans (``children.py``), becomes the worker's parent. The template ends when the supervisor
has closed its end.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import traceback
from errno import EAGAIN
from typing import NoReturn

from gateway.imports import trim_memory, without_collections
from gateway.processes.forks import Request, Template, receive_request, to_answer
from gateway.processes.titles import set_title

IGNORED = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "ABRT")
"""Only the supervisor handles signals: Ctrl-C, or a service manager's TERM to the whole group, must end neither the
template nor tunnels. Nor must ABRT, which systemd's watchdog sends to the whole group when the supervisor hangs."""

log = logging.getLogger("gateway")


def fork_template() -> Template | None:
    """Import what workers need, and fork the template from this process.

    Call first of all, while there are no threads: what is imported before is shared with the supervisor, too.

    :returns: None if that is impossible, which is logged; starting a worker then says why
    """
    try:
        _import_all()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
    except Exception as error:
        log.error("no template process for workers: %s", error)
        return None
    if pid == 0:
        _run(theirs)  # which closes the other end
    theirs.close()
    return Template(pid, ours.detach())


def main() -> NoReturn:
    """Be the template. The only argument is the descriptor of its end of the socket pair."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    _run(control)


def _import_all() -> None:
    with without_collections():
        import gateway.observe.events
        import gateway.processes.control.wire
        import gateway.processes.worker  # for its workers

        gateway.observe.events.import_what_counts()
        gateway.processes.control.wire.prepare()
    trim_memory()


def _run(control: socket.socket) -> NoReturn:
    """Serve the supervisor until it is gone, or in a forked worker be that until it exits."""
    status = 1
    try:
        gc.disable()
        for name in IGNORED:
            signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _close_others(control.fileno())
        set_title("gw-template", "gateway: template of workers")
        _serve(control)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _exit(status)


def _close_others(kept: int) -> None:
    """Close every descriptor but one and the standard streams; standard input becomes ``/dev/null``."""
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):  # the one that listed them is closed by now
                os.close(int(name))


def _serve(control: socket.socket) -> None:
    while True:
        try:
            if (request := receive_request(control)) is None:
                return
            try:
                result = _fork_worker(control, request)
            finally:
                for fd in request.descriptors:
                    os.close(fd)
        except OSError as error:
            result = -(error.errno or EAGAIN)
        try:
            control.send(to_answer(result))
        except OSError:
            return


def _fork_worker(control: socket.socket, request: Request) -> int:
    """Fork a worker that is nobody's child; return its pid. :raises OSError: the system has no room for it"""
    reading, writing = os.pipe()
    try:
        between = os.fork()
        if between == 0:
            try:
                pid = os.fork()
            except OSError as error:
                pid = -(error.errno or EAGAIN)
            if pid == 0:
                for fd in (control.detach(), reading, writing):
                    os.close(fd)
                _work(request)
            os.write(writing, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        os.close(writing)
        writing = -1
        return int(os.read(reading, 32) or -EAGAIN)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def _work(request: Request) -> NoReturn:
    """Be a worker. It exits without an effect if the supervisor has given it up meanwhile."""
    from gateway.observe.events import DIRECTORY
    from gateway.processes import worker

    status = 1
    try:
        set_title(f"gw-worker-{request.slot}", f"gateway: worker {request.slot}")
        os.environ[DIRECTORY] = request.metrics
        control, store, table, quotas = request.descriptors[:4]
        waiting = socket.socket(fileno=control)
        if waiting.recv(1, socket.MSG_PEEK):
            gc.enable()
            worker.main(request.slot, waiting.detach(), store, table, quotas)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _exit(status)


def _exit(status: int) -> NoReturn:
    """Exit without the interpreter's shutdown, which takes a fifth as long as a start."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
