"""Counters of backends, in a file of their own that forgets backends which are gone.

prometheus-client's counters keep every label that there ever was, in their files and in memory. Backends that are
discovered come and go for as long as the gateway runs, so these are kept here, in files of the same form: the
supervisor merges them with the others (``admin/collector.py``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gateway.observe.batch import Count
    from gateway.routing.registry import BackendKey

SPARE = 256
"""How many counters of backends that are gone may stay in the file, so that it is not written anew too often."""

log = logging.getLogger("gateway")


class _Metric(NamedTuple):
    name: str
    help: str
    labels: tuple[str, ...]
    """``upstream`` and ``backend`` come first"""


_CONNECTIONS = _Metric(
    "gateway_backend_connections",
    "Uses of connections to backends, by purpose and source",
    ("upstream", "backend", "for", "from"),
)
_CONNECT_ERRORS = _Metric(
    "gateway_backend_connect_errors",
    "Connections to a backend that could not be made",
    ("upstream", "backend", "reason"),
)


class BackendCounts:
    """The counters of one worker."""

    def __init__(self, path: str | None) -> None:
        """Count on from what the file has. :param path: its name must begin with ``counter_``; None: in memory only"""
        self._path = path
        self._file: Any = _InMemory() if path is None else _opened(path)
        self._keys: dict[str, BackendKey] = {key: _backend_of(key) for key, _, _ in self._file.read_all_values()}
        """all that are in the file"""
        self._counters: dict[tuple[str, ...], Count] = {}

    def connected(self, upstream: str, backend: str, purpose: str, source: str) -> Count:
        """Return what counts uses of connections, a number of them at once: see ``FOR_…`` and ``FROM_…``."""
        labels = (upstream, backend, purpose, source)
        counter = self._counters.get(labels)
        if counter is None:
            counter = self._counters[labels] = partial(self._count, labels, _key(_CONNECTIONS, labels))
        return counter

    def connect_failed(self, upstream: str, backend: str, reason: str) -> None:
        """Count an attempt to connect that failed. :param reason: one of a few words"""
        labels = (upstream, backend, reason)
        self._count(labels, _key(_CONNECT_ERRORS, labels), 1)

    def keep(self, known: Collection[BackendKey]) -> None:
        """Forget backends that are gone, unless they are few. :param known: all that there are"""
        gone = {key for key, backend in self._keys.items() if backend not in known}
        if len(gone) <= SPARE:
            return
        try:
            self._rewrite(gone)
        except OSError as error:  # everything is counted as before
            log.warning("metrics: counters of backends that are gone cannot be removed: %s", error.strerror or error)

    def close(self) -> None:
        """Count nothing more."""
        self._file.close()

    def _count(self, labels: tuple[str, ...], key: str, count: int) -> None:
        if key not in self._keys:
            self._keys[key] = labels[0], labels[1]
        self._file.write_value(key, self._file.read_value(key)[0] + count, 0.0)

    def _rewrite(self, gone: Collection[str]) -> None:
        """Replace the file at once: a reader has the old one or the new one. :raises OSError: it stays as it is"""
        file: Any = _InMemory()
        if self._path is not None:
            new = f"{self._path}.new"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)  # of a worker that has died
            file = _opened(new)
        try:
            for key, value, timestamp in self._file.read_all_values():
                if key not in gone:
                    file.write_value(key, value, timestamp)
            if self._path is not None:
                os.replace(new, self._path)
        except OSError:
            file.close()
            raise
        self._file.close()
        self._file = file
        self._keys = {key: backend for key, backend in self._keys.items() if key not in gone}
        self._counters.clear()


class _InMemory(dict[str, float]):
    """In place of a file, where nobody reads it."""

    def read_value(self, key: str) -> tuple[float, float]:
        return self.get(key, 0.0), 0.0

    def write_value(self, key: str, value: float, _: float) -> None:
        self[key] = value

    def read_all_values(self) -> list[tuple[str, float, float]]:
        return [(key, value, 0.0) for key, value in self.items()]

    def close(self) -> None:
        self.clear()


def _opened(path: str) -> Any:
    from prometheus_client.mmap_dict import MmapedDict

    return MmapedDict(path)  # type: ignore[no-untyped-call]  # prometheus-client leaves it untyped


def _key(metric: _Metric, labels: tuple[str, ...]) -> str:
    from prometheus_client.mmap_dict import mmap_key

    return mmap_key(metric.name, f"{metric.name}_total", list(metric.labels), list(labels), metric.help)


def _backend_of(key: str) -> BackendKey:
    labels = json.loads(key)[2]
    return labels["upstream"], labels["backend"]
