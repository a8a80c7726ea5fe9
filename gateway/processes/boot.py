"""A worker's process begins here: ``python -m gateway.processes.boot SLOT CONTROL STORE TABLE``.

By itself this imports next to nothing, so that it can say how the rest is imported: a worker that replaces a dead one
has connections waiting for it.
"""

from __future__ import annotations

import os
import sys

from gateway.imports import without_collections


def main() -> None:
    """Import a worker, run it, and exit."""
    with without_collections():
        from gateway.processes import worker
    worker.main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what would follow takes the interpreter apart piece by piece, which is a fifth of a start


if __name__ == "__main__":
    main()
