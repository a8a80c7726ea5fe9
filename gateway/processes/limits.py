"""The process's limits: open descriptors, core dumps."""

from __future__ import annotations

import resource

MAX_DESCRIPTORS = 4 * 1024 * 1024
"""Twice what the largest configurable table needs, at two descriptors per tunnel."""


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors as far as the system allows; return the new limit.

    Some container engines set a limit of a billion. More than ``MAX_DESCRIPTORS`` is of no use, and arrays that are
    indexed by descriptor should stay small.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else max(min(hard, MAX_DESCRIPTORS), 0)
    if soft != limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def forbid_core_dumps() -> None:
    """Write no core dumps from now on: the heap may hold keys and passwords. The hard limit stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
