"""Users and keys while the gateway runs: files that are read again when they change, and key sets that are fetched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Literal

from gateway.admin.state import CredentialState, GatewayState
from gateway.config.credentials import (
    Credentials,
    check_ca_file,
    check_key_set,
    check_users,
    parse_key_set,
    shown,
    users_in,
)
from gateway.config.errors import BadValue
from gateway.processes.file_watch import FileWatch
from gateway.processes.key_sets import KeySets
from gateway.processes.limits import forbid_core_dumps

log = logging.getLogger("gateway")


class CredentialWatch(FileWatch[Credentials]):
    """Watches the files, and fetches the key sets."""

    noun = "credentials"

    def __init__(
        self,
        state: GatewayState,
        changed: Callable[[Credentials], None],
        fetched: Callable[[dict[str, str]], None],
        answered: Callable[[str], None],
        known: Mapping[str, str] | None = None,
    ) -> None:
        """
        :param changed: called with what has been read anew
        :param fetched: called with all key sets that were fetched, by URL, when one of them has changed
        :param answered: called with the URL of a key set after each attempt to fetch it
        :param known: key sets that a previous supervisor had fetched
        """
        super().__init__(Credentials.none())
        self._state = state
        self._changed_to = changed
        self._fetched_to = fetched
        self._errors: dict[str, str] = {}
        self._counted: dict[str, tuple[str, int]] = {}
        """texts of files, and how many users or keys are in them; by path"""
        self.key_sets = KeySets(self._attempted, answered, self._count, known)

    def use(self, credentials: Credentials) -> None:
        """Watch the files of a configuration that is in force from now on, and fetch its key sets.

        :param credentials: as they were read
        """
        if credentials.files or credentials.servers:
            forbid_core_dumps()
        self.key_sets.use(credentials)
        super().use(credentials)

    def fetch_too(self, coming: Credentials) -> None:
        """Fetch also the key sets of a configuration that is about to come into force."""
        before = self._content
        self.key_sets.use(
            coming._replace(servers={**before.servers, **coming.servers}, cas={**before.cas, **coming.cas})
        )

    async def close(self) -> None:
        """Fetch nothing more."""
        await self.key_sets.close()

    def _attempted(self, changed: bool) -> None:
        self._show(self._errors)
        if changed:
            self._fetched_to(self.key_sets.texts)

    def _count(self, route: str, fetched: bool) -> None:
        self._state.key_set_fetches[route, fetched] += 1

    def _read_again(self, before: Credentials, paths: frozenset[str]) -> tuple[Credentials, dict[str, str]]:
        return renewed(before, paths)

    def _changed_paths(self, before: Credentials, found: Credentials) -> list[str]:
        return [
            path
            for old, new in zip(_files(before), _files(found), strict=True)
            for path, text in new.items()
            if old[path] != text
        ]

    def _changed(self, found: Credentials) -> None:
        self.key_sets.use(found)  # their CAs may be others
        self._changed_to(found)

    def _report(self, path: str, error: str) -> None:
        log.error("credentials: %s; what was there before stays in use", error)
        self._state.credential_errors[path] = self._state.credential_errors.get(path, 0) + 1

    def _show(self, errors: dict[str, str]) -> None:
        self._errors = errors
        self._state.credentials = [*self._files_shown(), *self._key_sets_shown()]

    def _files_shown(self) -> Iterator[CredentialState]:
        kinds: tuple[tuple[Literal["users", "keys"], dict[str, str]], ...]
        kinds = (("users", self._content.users), ("keys", self._content.key_sets))
        for kind, texts in kinds:
            for path, text in texts.items():
                counted = self._counted.get(path)
                if counted is None or counted[0] is not text:
                    entries = len(users_in(text)) if kind == "users" else len(parse_key_set(text))
                    counted = self._counted[path] = (text, entries)
                yield CredentialState(path, kind, counted[1], None, self._errors.get(path))

    def _key_sets_shown(self) -> Iterator[CredentialState]:
        for url, each in self.key_sets.sets.items():
            entries = None if each.text is None else each.entries
            yield CredentialState(shown(url), "keys", entries, each.fetched_unix, each.error)


def renewed(before: Credentials, paths: Container[str]) -> tuple[Credentials, dict[str, str]]:
    """Read files again.

    :param paths: of those that are read
    :returns: what is in all of them, in place of what is broken what was there before; errors by path
    """
    found = Credentials({}, {}, {}, before.servers)
    errors: dict[str, str] = {}
    for old, new, check in zip(_files(before), _files(found), (check_users, check_key_set, check_ca_file), strict=True):
        for path, text in old.items():
            if path not in paths:
                new[path] = text
                continue
            try:
                new[path] = check(path)
            except BadValue as error:
                new[path] = text
                errors[path] = error.message
    return found, errors


def _files(credentials: Credentials) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    return credentials.users, credentials.key_sets, credentials.cas
