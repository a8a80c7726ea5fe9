"""Cheap imports: half of a process's start is importing."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Import without garbage collections, which take a fifth of the time. Imported objects stay, so they are frozen
    for later collections."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        gc.freeze()


@contextlib.contextmanager
def parts_of(package: str) -> Iterator[None]:
    """Import modules of a package without what its ``__init__.py`` imports. Later imports of the package run that.

    Meanwhile ``sys.modules`` has an empty package, from which modules can be imported. Changes nothing if the package
    has been imported before.
    """
    if package in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(package)
    assert spec is not None
    module = sys.modules[package] = importlib.util.module_from_spec(spec)
    assert spec.origin is not None
    if version := re.search(r'^__version__ = "(.+)"$', Path(spec.origin).read_text(), re.MULTILINE):
        module.__dict__["__version__"] = version[1]  # its modules import that from it
    try:
        yield
    finally:
        del sys.modules[package]


def trim_memory() -> None:
    """Return what the C library keeps of freed memory to the system, if it can (malloc_trim(3)): a start leaves a
    megabyte."""
    import ctypes

    with contextlib.suppress(AttributeError):  # not every C library has this
        ctypes.CDLL(None).malloc_trim(0)
