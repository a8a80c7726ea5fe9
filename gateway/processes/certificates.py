"""The certificates of listeners and upstreams while the gateway runs: read again when their files change."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.admin.state import CertificateState, GatewayState
from gateway.config.certificates import Certificates, read_backend_pair, read_pair
from gateway.config.errors import BadValue
from gateway.config.pem import check_ca, read_pem
from gateway.processes.file_watch import FileWatch, Group
from gateway.processes.limits import forbid_core_dumps

log = logging.getLogger("gateway")


class CertificateWatch(FileWatch[Certificates]):
    """Watches their files."""

    noun = "certificates"

    def __init__(self, state: GatewayState, changed: Callable[[Certificates], None]) -> None:
        """:param changed: called with what has been read anew"""
        super().__init__(Certificates.none())
        self._state = state
        self._changed_to = changed

    def use(self, certificates: Certificates) -> None:
        """Watch the files of a configuration that is in force from now on. :param certificates: as they were read"""
        super().use(certificates)
        if certificates.files:
            forbid_core_dumps()

    def _groups(self, content: Certificates) -> list[Group]:
        groups: list[Group] = [(path,) for path in (*content.client_cas, *content.backend_cas)]
        for cert, key in (*content.pairs, *content.backend_pairs):
            groups.append((cert,) if key is None else (cert, key))
        return groups

    def _read_again(self, before: Certificates, paths: frozenset[str]) -> tuple[Certificates, dict[str, str]]:
        return renewed(before, paths)

    def _changed_paths(self, before: Certificates, found: Certificates) -> list[str]:
        return _changed_paths(before, found)

    def _changed(self, found: Certificates) -> None:
        self._changed_to(found)

    def _report(self, path: str, error: str) -> None:
        log.error("certificate %s: %s; the previous one stays in use", path, error)
        self._state.certificate_errors[path] = self._state.certificate_errors.get(path, 0) + 1

    def _show(self, errors: dict[str, str]) -> None:
        self._state.certificates = [
            CertificateState(cert, pair.names, pair.not_after, errors.get(cert))
            for (cert, _), pair in self._content.pairs.items()
        ]


def renewed(before: Certificates, paths: frozenset[str]) -> tuple[Certificates, dict[str, str]]:
    """Read files again.

    :param paths: of those that are read
    :returns: what is in all of them, in place of what is broken what was there before; errors by path
    """
    found = Certificates.none()
    errors: dict[str, str] = {}
    for (cert, key), pair in before.pairs.items():
        if paths.isdisjoint((cert, key)):
            found.pairs[cert, key] = pair
            continue
        try:
            found.pairs[cert, key] = read_pair(cert, key)
        except BadValue as error:
            found.pairs[cert, key] = pair
            errors[cert] = error.message
    for (cert, key), texts in before.backend_pairs.items():
        if paths.isdisjoint((cert, key)):
            found.backend_pairs[cert, key] = texts
            continue
        try:
            found.backend_pairs[cert, key] = read_backend_pair(cert, key)
        except BadValue as error:
            found.backend_pairs[cert, key] = texts
            errors[cert] = error.message
    for old, new in ((before.client_cas, found.client_cas), (before.backend_cas, found.backend_cas)):
        for path, text in old.items():
            if path not in paths:
                new[path] = text
                continue
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
