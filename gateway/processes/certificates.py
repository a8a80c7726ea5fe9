"""The certificates of listeners and upstreams while the gateway runs: read again when their files change, in the
supervisor.

A pair that is broken, half written for instance, changes nothing: workers go on with the previous one, which the
supervisor keeps. That is logged, counted and shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable

from gateway.admin.state import CertificateState, GatewayState
from gateway.config.certificates import Certificates, read_backend_pair, read_pair
from gateway.config.errors import BadValue
from gateway.config.pem import check_ca, read_pem
from gateway.processes.limits import forbid_core_dumps

LOOK_SECONDS = 1.0
"""Between two looks at the files. What is broken is looked at twice: a certificate and its key are two files."""

Signature = tuple[tuple[int, int, int, int] | None, ...]
log = logging.getLogger("gateway")


class CertificateWatch:
    """Watches the files."""

    def __init__(self, state: GatewayState, changed: Callable[[Certificates], None]) -> None:
        """:param changed: called with what has been read anew"""
        self._state = state
        self._changed = changed
        self._certificates = Certificates.none()
        self._seen: Signature = ()
        """of the files as they were read, or found broken"""
        self._broken: Signature | None = None
        """of the files as they were broken in the last look"""

    def use(self, certificates: Certificates) -> None:
        """Watch the files of a configuration that is in force from now on. :param certificates: as they were read"""
        self._certificates = certificates
        self._seen = _signature(certificates.files)
        self._broken = None
        self._show({})
        if certificates.files:
            forbid_core_dumps()

    async def run(self) -> None:
        """Look again and again, as long as the gateway runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:
                log.exception("the files of certificates cannot be watched")

    async def look(self) -> None:
        """Read files that have changed."""
        before = self._certificates
        if not before.files:
            return
        signature = await asyncio.to_thread(_signature, before.files)
        if signature == self._seen:
            return
        found, errors = await asyncio.to_thread(renewed, before)
        if self._certificates is not before:
            return  # a reload came between
        if errors and signature != self._broken:
            self._broken = signature
        else:
            self._seen = signature
            self._broken = None
            for path, error in errors.items():
                log.error("certificate %s: %s; the previous one stays in use", path, error)
                self._state.certificate_errors[path] = self._state.certificate_errors.get(path, 0) + 1
        if found != before:
            log.info("certificates read again: %s", ", ".join(_changed_paths(before, found)))
            self._certificates = found
            self._changed(found)
        if self._broken is None:
            self._show(errors)

    def _show(self, errors: dict[str, str]) -> None:
        self._state.certificates = [
            CertificateState(cert, pair.names, pair.not_after, errors.get(cert))
            for (cert, _), pair in self._certificates.pairs.items()
        ]


def renewed(before: Certificates) -> tuple[Certificates, dict[str, str]]:
    """Read files again. :returns: what is in them, in place of what is broken what was there before; errors by path"""
    found = Certificates.none()
    errors: dict[str, str] = {}
    for (cert, key), pair in before.pairs.items():
        try:
            found.pairs[cert, key] = read_pair(cert, key)
        except BadValue as error:
            found.pairs[cert, key] = pair
            errors[cert] = error.message
    for (cert, key), texts in before.backend_pairs.items():
        try:
            found.backend_pairs[cert, key] = read_backend_pair(cert, key)
        except BadValue as error:
            found.backend_pairs[cert, key] = texts
            errors[cert] = error.message
    for old, new in ((before.client_cas, found.client_cas), (before.backend_cas, found.backend_cas)):
        for path, text in old.items():
            try:
                check_ca(path)
                new[path] = read_pem(path)
            except BadValue as error:
                new[path] = text
                errors[path] = error.message
    return found, errors


def _changed_paths(before: Certificates, found: Certificates) -> list[str]:
    """Certificates and CAs that are others now; a key goes by its certificate."""
    paths = [cert for cert, key in found.pairs if found.pairs[cert, key] != before.pairs[cert, key]]
    paths += [cert for (cert, key), pair in found.backend_pairs.items() if pair != before.backend_pairs[cert, key]]
    for old, new in ((before.client_cas, found.client_cas), (before.backend_cas, found.backend_cas)):
        paths += [path for path, text in new.items() if text != old[path]]
    return list(dict.fromkeys(paths))


def _signature(files: Iterable[str]) -> Signature:
    """Differs when a file was written or replaced; links are followed."""
    found: list[tuple[int, int, int, int] | None] = []
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev))
    return tuple(found)
