"""Modules of the pure build, for tests that put something of their own in the place of parts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import gateway

PACKAGE = Path(gateway.__file__).parent


def pure(name: str) -> ModuleType:
    """A module of the pure build, under a name of its own."""
    path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"pure_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
