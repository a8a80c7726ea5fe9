"""The directory of the workers' metrics files (``observe/events.py``): the supervisor makes it and removes it.

``tempfile`` and ``shutil`` would do that, but bring libraries for archives, of half a megabyte.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets

log = logging.getLogger("gateway")


def metrics_directory(before: str = "") -> str:
    """Return the previous directory if it still exists, or create one.

    A new one goes where it outlives this process, if there is such a place: systemd empties a private ``/tmp``.

    :raises OSError: it cannot be created
    """
    if os.path.isdir(before):
        return before
    if before:
        log.warning("the previous supervisor's metrics are gone, so counters restart from zero: %s", before)
    lasting = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    places = [lasting, os.environ.get("TMPDIR", ""), "/tmp"]
    place = next((each for each in places if os.path.isdir(each) and os.access(each, os.W_OK)), "/var/tmp")
    # Nobody can have made one of that name in advance: if somebody has, this fails.
    path = os.path.join(os.path.abspath(place), f"gateway-metrics-{secrets.token_hex(8)}")
    os.mkdir(path, 0o700)
    return path


def remove_metrics(directory: str) -> None:
    """Remove the directory with its files. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
