"""Compiles the load program, when its sources have changed: with TLS where OpenSSL's headers are installed."""

import os
import shutil
import subprocess
from pathlib import Path

from bench.errors import BenchError

HERE = Path(__file__).parent
BIN = HERE / "bin"
FLAGS = ["-O3", "-Wall", "-Wextra"]
TLS_HEADER = "openssl/ssl.h"
TLS_DEFINES, TLS_LIBRARIES = ["-DLOAD_TLS"], ["-lssl", "-lcrypto"]
NO_HEADERS = "not built with OpenSSL's headers: apt-get install libssl-dev"


def build_load() -> Path:
    """Returns the path of the load program, compiled if it is older than its sources.

    Raises BenchError when there is no C compiler or it fails.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchError(
            "the benchmark's load program is written in C and no gcc was found: apt-get install gcc libc6-dev"
        )
    tls = _finds_openssl(compiler)
    program = BIN / ("load-tls" if tls else "load")
    sources = sorted(HERE.glob("load*.c"))
    newest = max(path.stat().st_mtime for path in [*sources, *HERE.glob("load*.h")])
    if program.exists() and program.stat().st_mtime > newest:
        return program
    BIN.mkdir(exist_ok=True)
    fresh = program.with_suffix(f".{os.getpid()}")  # others may be building it, too
    options = [*FLAGS, *TLS_DEFINES * tls, "-o", str(fresh), *map(str, sources), *TLS_LIBRARIES * tls]
    result = subprocess.run([compiler, *options], capture_output=True, text=True)
    if result.returncode != 0:
        raise BenchError(f"{compiler} could not compile bench/load*.c:\n{result.stderr.strip()}")
    fresh.replace(program)
    return program


def speaks_tls(program: Path) -> bool:
    """Whether `build_load` made `program` with TLS."""
    return program.name == "load-tls"


def _finds_openssl(compiler: str) -> bool:
    tried = subprocess.run(
        [compiler, "-E", "-x", "c", "-"], input=f"#include <{TLS_HEADER}>\n".encode(), capture_output=True
    )
    return tried.returncode == 0
