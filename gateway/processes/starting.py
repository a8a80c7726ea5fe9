"""Starts worker processes: asks the template process to fork them, and replaces it when it dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
import time

from gateway.processes.children import Child, adopt_orphans, exit_status, how_it_ended, reap_orphans
from gateway.processes.forks import ANSWER_BYTES, Request, Template, pid_in, send_request

ANSWER_SECONDS = 5.0
BOOT_SECONDS = 30.0
"""How long a template that is a fresh interpreter may take for its first answer."""

END_SECONDS = 1.0
STABLE_SECONDS = 10.0
"""A template that lived this long is replaced at once, another one when the next worker is started."""

log = logging.getLogger("gateway")


class TemplateLost(OSError):
    """The template died or hung while it was to start a worker; ``str()`` says which. Another attempt may succeed, with
    other descriptors: the worker may have started after all, and ends when it finds the other ends closed."""


class Starter:
    """Starts workers, one after another."""

    def __init__(self, template: Template | None = None) -> None:
        """:param template: that was forked before; without it, one starts with the first worker"""
        self._child: Child | None = None
        self._control: socket.socket | None = None
        self._asking = asyncio.Lock()
        self._watching: set[asyncio.Task[None]] = set()
        self._booting = False
        self._closed = False
        self._adopts = False
        if template is not None:
            self._use(Child(template.pid), socket.socket(fileno=template.control))

    @property
    def pid(self) -> int | None:
        """Of the template, while there is one."""
        return None if self._child is None else self._child.pid

    async def start(self, request: Request) -> Child:
        """Start a worker.

        :raises TemplateLost: another attempt may succeed
        :raises OSError: the system has no room for the process or its descriptors
        """
        async with self._asking:
            if not self._adopts:
                adopt_orphans()
                self._adopts = True
            if self._control is None:
                self._start_template()
            control, child = self._control, self._child
            assert control is not None
            assert child is not None
            seconds = BOOT_SECONDS if self._booting else ANSWER_SECONDS
            try:
                send_request(control, request)
                async with asyncio.timeout(seconds):
                    answer = await asyncio.get_running_loop().sock_recv(control, ANSWER_BYTES)
            except TimeoutError:
                self._give_up(child)
                raise TemplateLost(
                    f"the template process (pid {child.pid}) did not answer within {seconds:g} s"
                ) from None
            except ConnectionError:
                answer = b""
            except asyncio.CancelledError:
                self._give_up(child)  # its answer would be taken for that to the next request
                raise
            if not answer:
                self._give_up(child)
                raise TemplateLost(f"the template process (pid {child.pid}) died")
            self._booting = False
            return Child(pid_in(answer))

    def reap_orphans(self) -> None:
        """Wait for processes that a dead template left behind. Call this now and then."""
        if not self._asking.locked():  # otherwise a worker may be among them that is not known yet
            reap_orphans()

    def stop(self) -> None:
        """End the template before this process executes another program, which starts its own. If that fails, another
        one starts with the next worker."""
        if (child := self._child) is not None:
            self._give_up(child)
            child.wait()

    async def renew(self) -> None:
        """Start later workers from another template, which is a fresh interpreter: those of this one do not boot."""
        async with self._asking:
            self.stop()

    async def close(self) -> None:
        """End the template, and wait until it has exited."""
        self._closed = True
        child = self._child
        if self._control is not None:
            self._control.close()  # which ends it
            self._control = None
        if child is not None and self._watching:
            await asyncio.wait(self._watching, timeout=END_SECONDS)
            child.kill()
            await asyncio.gather(*self._watching)

    def _give_up(self, child: Child) -> None:
        """Start no more workers with this template, and see that it ends."""
        child.kill()
        if child is self._child:
            assert self._control is not None
            self._control.close()
            self._child = self._control = None

    def _use(self, child: Child, control: socket.socket) -> None:
        control.setblocking(False)
        self._child, self._control = child, control
        task = asyncio.get_running_loop().create_task(self._watch(child))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    def _start_template(self) -> None:
        """Start a template. :raises OSError: the system has no room for it"""
        with contextlib.ExitStack() as ours:
            control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(control)
            with its_control:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "gateway.processes.template", str(its_control.fileno())],
                    pass_fds=[its_control.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            ours.pop_all()
        self._booting = True
        self._use(Child.of(process), control)

    async def _watch(self, child: Child) -> None:
        """Wait until a template exits, and replace it."""
        since = time.monotonic()
        status = await exit_status(child)
        if self._closed or (self._child is not child and self._child is not None):
            return
        lived = time.monotonic() - since
        given_up = self._child is None
        if not given_up:
            log.error("the template process (pid %d) %s after %.1f s", child.pid, how_it_ended(status), lived)
            self._give_up(child)
        if lived >= STABLE_SECONDS and not self._asking.locked():
            try:
                self._start_template()
            except OSError as error:
                log.error("cannot start another template process: %s", error)
