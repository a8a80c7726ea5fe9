"""Limits of a process."""

from __future__ import annotations

import resource

MAX_DESCRIPTORS = 4 * 1024 * 1024
"""Two for each tunnel of the largest table that can be configured, and as many again."""


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors as far as the system lets this process; return it.

    Some container engines set a limit of a thousand million. More than ``MAX_DESCRIPTORS`` would serve no purpose, and
    what is indexed by descriptor should stay small.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else max(min(hard, MAX_DESCRIPTORS), 0)
    if soft != limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
