"""Files that are read again while the gateway runs, in the supervisor.

A file that is broken, half written for instance, changes nothing: workers go on with the previous content, which the
supervisor keeps. That is logged, counted and shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

LOOK_SECONDS = 1.0
"""Between two looks at the files. What is broken is looked at twice: it may be half written, or one file of two."""

Signature = tuple[int, int, int, int] | None
"""Of a file: differs when it was written or replaced. None if it is not there."""

Group = tuple[str, ...]
"""Paths of files that are read together."""

log = logging.getLogger("gateway")


class Content(Protocol):
    """What was read of some files."""

    @property
    def files(self) -> list[str]:
        """Paths of all files."""


C = TypeVar("C", bound=Content)


class FileWatch(ABC, Generic[C]):
    """Watches the files of a configuration."""

    noun: str
    """what is in the files, in the plural"""

    def __init__(self, content: C) -> None:
        """:param content: of a configuration without such files"""
        self._content = content
        self._seen: dict[Group, tuple[Signature, ...]] = {}
        """of files as they were read, or found broken"""
        self._broken: dict[Group, tuple[Signature, ...]] = {}
        """of files as they were broken in the last look, which may have come too early"""
        self._wrong: dict[str, str] = {}
        """what is wrong with files, by path"""
        self._held = 0

    def use(self, content: C) -> None:
        """Watch the files of a configuration that is in force from now on. :param content: as it was read"""
        self._content = content
        self._seen = {}  # they may have changed since: the next look reads them
        self._broken = {}
        self._wrong = {}
        self._show({})

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Change nothing meanwhile: workers are getting another configuration, with what was read for that."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    async def run(self) -> None:
        """Look again and again, as long as the gateway runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:
                log.exception("the files of %s cannot be watched", self.noun)

    async def look(self) -> None:
        """Read files that have changed."""
        before = self._content
        if not before.files or self._held:
            return
        signatures = await asyncio.to_thread(_signatures, before.files)
        groups = {group: tuple(signatures[path] for path in group) for group in self._groups(before)}
        changed = {group: each for group, each in groups.items() if self._seen.get(group) != each}
        if not changed:
            return
        paths = frozenset(path for group in changed for path in group)
        found, errors = await asyncio.to_thread(self._read_again, before, paths)
        if self._content is not before or self._held:
            return  # a reload came between
        for group, signature in changed.items():
            wrong = [path for path in group if path in errors]
            if wrong and self._broken.get(group) != signature:
                self._broken[group] = signature
                continue
            self._seen[group] = signature
            self._broken.pop(group, None)
            for path in group:
                self._wrong.pop(path, None)
            for path in wrong:
                self._wrong[path] = errors[path]
                self._report(path, errors[path])
        if found != before:
            log.info("%s read again: %s", self.noun, ", ".join(self._changed_paths(before, found)))
            self._content = found
            self._changed(found)
        self._show(self._wrong)

    def _groups(self, content: C) -> list[Group]:
        """Which files are read together: each by itself."""
        return [(path,) for path in content.files]

    @abstractmethod
    def _read_again(self, before: C, paths: frozenset[str]) -> tuple[C, dict[str, str]]:
        """Read some files, in a thread.

        :param paths: of those that have changed, and of those that are read together with them
        :returns: what is in the files, in place of what is broken what was there before; errors by path
        """

    @abstractmethod
    def _changed_paths(self, before: C, found: C) -> list[str]:
        """Paths of the files whose content is another now."""

    @abstractmethod
    def _changed(self, found: C) -> None:
        """Put in force what was read."""

    @abstractmethod
    def _report(self, path: str, error: str) -> None:
        """Log and count a broken file."""

    @abstractmethod
    def _show(self, errors: dict[str, str]) -> None:
        """Have the state show the content in use. :param errors: by path"""


def _signatures(files: Iterable[str]) -> dict[str, Signature]:
    """Signatures of files, by path; links are followed."""
    found: dict[str, Signature] = {}
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            found[path] = None
        else:
            found[path] = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
    return found
