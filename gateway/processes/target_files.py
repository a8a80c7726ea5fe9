"""Files that list backends, while the gateway runs: read again when they change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.config.errors import BadValue
from gateway.config.settings_balancing import Backend
from gateway.config.targets import read_targets
from gateway.processes.file_watch import FileWatch

log = logging.getLogger("gateway")


@dataclass(frozen=True)
class Lists:
    """What files list."""

    backends: dict[str, tuple[Backend, ...] | None] = field(default_factory=dict)
    """by path; None while that file could not be read"""
    incomplete: frozenset[str] = field(default=frozenset(), compare=False)
    """paths of files with entries that were left out"""

    @property
    def files(self) -> list[str]:
        """Paths of all files."""
        return list(self.backends)


class TargetFiles(FileWatch[Lists]):
    """Watches them."""

    noun = "targets"

    def __init__(
        self,
        found: Callable[[str, tuple[Backend, ...], bool], None],
        failed: Callable[[str, str], None],
        recovered: Callable[[str], None],
    ) -> None:
        """
        :param found: called with a file's path, what it lists and whether that is all of it, when that has changed
        :param failed: called with its path and what is wrong, when it has become broken
        :param recovered: called with its path when it can be used again
        """
        super().__init__(Lists())
        self._found = found
        self._failed = failed
        self._recovered = recovered
        self._failing: set[str] = set()

    def watch(self, paths: Iterable[str], known: Callable[[str], tuple[Backend, ...] | None]) -> None:
        """Watch exactly these files from now on. :param known: what a file listed when it was read last"""
        wanted = {path: known(path) for path in sorted(set(paths))}
        if wanted != self._content.backends:
            self._failing &= wanted.keys()
            self.use(Lists(wanted))

    def _read_again(self, before: Lists, paths: frozenset[str]) -> tuple[Lists, dict[str, str]]:
        """An entry that is wrong may be about any backend from before. So none of these is taken away meanwhile."""
        found: dict[str, tuple[Backend, ...] | None] = {}
        errors = {}
        incomplete = set(before.incomplete - paths)
        for path, last in before.backends.items():
            if path not in paths:
                found[path] = last
                continue
            try:
                targets = read_targets(path)
            except BadValue as error:
                found[path] = last
                errors[path] = error.message
                continue
            found[path] = targets.backends
            if targets.mistakes:
                listed = {backend.address for backend in targets.backends}
                found[path] = (*targets.backends, *(each for each in last or () if each.address not in listed))
                more = len(targets.mistakes) - 1
                errors[path] = targets.mistakes[0].message + (f" (and {more} more)" if more else "")
                incomplete.add(path)
        return Lists(found, frozenset(incomplete)), errors

    def _changed_paths(self, before: Lists, found: Lists) -> list[str]:
        return [path for path, each in found.backends.items() if each != before.backends[path]]

    def _changed(self, found: Lists) -> None:
        for path, backends in found.backends.items():
            if backends is not None:
                self._found(path, backends, path not in found.incomplete)

    def _report(self, path: str, error: str) -> None:
        self._failing.add(path)
        self._failed(path, error)

    def _show(self, errors: dict[str, str]) -> None:
        if not self._seen:
            return  # the files are about to be read
        for path in self._failing - errors.keys():
            self._recovered(path)
        self._failing &= errors.keys()
