"""Limits of a process."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors as far as the system lets this process; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
