"""A worker's process begins here: ``python -m gateway.processes.boot SLOT CONTROL STORE TABLE``.

By itself this imports next to nothing, so that it can say how the rest is imported: a worker that replaces a dead one
has connections waiting for it.
"""

from __future__ import annotations

import sys

from gateway.imports import without_collections


def main() -> None:
    """Import a worker, and run it."""
    with without_collections():
        from gateway.processes import worker
    worker.main(sys.argv[1:])


if __name__ == "__main__":
    main()
