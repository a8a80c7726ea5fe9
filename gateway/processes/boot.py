"""Entry point of a worker process: ``python -m gateway.processes.boot SLOT CONTROL STORE TABLE QUOTAS``.

This module itself imports next to nothing, so it controls how the rest is imported. Startup must be fast: a worker that
replaces a dead one has connections waiting.
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
    os._exit(0)  # skip interpreter shutdown, which takes a fifth as long as a start


if __name__ == "__main__":
    main()
