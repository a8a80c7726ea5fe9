"""Users and keys, as the supervisor has read or fetched them last."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Credentials:
    """Texts of the files and URLs that routes name."""

    def __init__(self, ask: Callable[[str], None]) -> None:
        """:param ask: has the supervisor fetch a URL now, unless it did so lately; called with it"""
        self._ask = ask
        self._texts: Mapping[str, str] = {}
        self._waiting: list[Callable[[], None]] = []

    def use(self, texts: Mapping[str, str]) -> None:
        """Take what the supervisor has read. :param texts: by absolute path or URL; all that there are"""
        self._texts = texts
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            changed()

    def text(self, source: str) -> str | None:
        """What a source says: the same object until it changes. None as long as it could not be fetched."""
        return self._texts.get(source)

    def ask_again(self, source: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Have a URL fetched, as a key is unknown.

        :param changed: called once when there is an answer, even if it says the same as before
        :returns: what takes that back
        """
        self._waiting.append(changed)
        self._ask(source)

        def forget() -> None:
            if changed in self._waiting:
                self._waiting.remove(changed)

        return forget
