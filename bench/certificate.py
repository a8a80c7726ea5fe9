"""The certificate that every proxy uses over TLS: P-256, self-signed, made afresh with the openssl command."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

DAYS = 365


@dataclass(frozen=True)
class Tls:
    """What clients and proxies use: PEM files, and the version that the clients ask for (1.2 or 1.3).

    `both` holds the certificate and its key in one file.
    """

    certificate: Path
    key: Path
    both: Path
    version: str


@contextlib.contextmanager
def fresh_certificate(version: str) -> Iterator[Tls]:
    """Makes a certificate for 127.0.0.1 in a temporary directory, and removes it.

    Raises BenchError when there is no openssl command or it fails.
    """
    if (program := shutil.which("openssl")) is None:
        raise BenchError("no openssl command to make a certificate with: apt-get install openssl")
    with tempfile.TemporaryDirectory(prefix="bench-certificate-") as name:
        made = Tls(*(Path(name) / file for file in ("cert.pem", "cert.key", "both.pem")), version)
        what = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", str(DAYS)]
        whose = ["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"]
        result = subprocess.run(
            [program, "req", "-x509", *what, *whose, "-keyout", made.key, "-out", made.certificate],
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            raise BenchError(f"{program} could not make a certificate:\n{result.stderr.strip()}")
        made.both.write_text(made.certificate.read_text() + made.key.read_text())
        yield made
