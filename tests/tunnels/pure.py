"""The pure build beside the compiled one, for tests that put something of their own in the place of parts."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from gateway.build import TWO_BUILDS, PureSources


def pure_modules() -> dict[str, ModuleType]:
    """The pure build of all modules that have two, by the ends of their names; they import each other."""
    before = {name: importlib.import_module(name) for name in TWO_BUILDS}
    parents = {name: sys.modules[name.rpartition(".")[0]] for name in TWO_BUILDS}
    sources = PureSources()
    sys.meta_path.insert(0, sources)
    try:
        for name in TWO_BUILDS:
            del sys.modules[name]
        found = {name.rpartition(".")[2]: importlib.import_module(name) for name in TWO_BUILDS}
    finally:
        sys.meta_path.remove(sources)
        sys.modules.update(before)
        for name, module in before.items():
            setattr(parents[name], name.rpartition(".")[2], module)
    return found
