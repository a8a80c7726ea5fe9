"""Compiles the load program, when its sources have changed."""

import shutil
import subprocess
from pathlib import Path

from bench.errors import BenchError

HERE = Path(__file__).parent
PROGRAM = HERE / "bin" / "load"
FLAGS = ["-O3", "-Wall", "-Wextra"]


def build_load() -> Path:
    """Returns the path of the load program, compiled if it is older than its sources.

    Raises BenchError when there is no C compiler or it fails.
    """
    sources = sorted(HERE.glob("load*.c"))
    newest = max(path.stat().st_mtime for path in [*sources, *HERE.glob("load*.h")])
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > newest:
        return PROGRAM
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchError(
            "the benchmark's load program is written in C and no gcc was found: apt-get install gcc libc6-dev"
        )
    PROGRAM.parent.mkdir(exist_ok=True)
    fresh = PROGRAM.with_suffix(".new")
    result = subprocess.run([compiler, *FLAGS, "-o", str(fresh), *map(str, sources)], capture_output=True, text=True)
    if result.returncode != 0:
        raise BenchError(f"{compiler} could not compile bench/load*.c:\n{result.stderr.strip()}")
    fresh.replace(PROGRAM)
    return PROGRAM
