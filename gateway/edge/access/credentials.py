"""Users and keys, as the supervisor has read or fetched them last."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Credentials:
    """Texts of the files and URLs that routes name."""

    def __init__(self, ask: Callable[[str], None]) -> None:
        """:param ask: has the supervisor fetch a URL now, unless it did so lately; called with it"""
        self._ask = ask
        self._texts: Mapping[str, str] = {}
        self._waiting: dict[str, list[Callable[[], None]]] = {}

    def use(self, texts: Mapping[str, str]) -> None:
        """Take what the supervisor has read. :param texts: by absolute path or URL; all that there are"""
        before = self._texts
        self._texts = {source: old if (old := before.get(source)) == text else text for source, text in texts.items()}
        for source in list(self._waiting):
            if self._texts.get(source) is not before.get(source):
                self.answered(source)

    def answered(self, source: str) -> None:
        """The supervisor has tried to fetch a URL; what that has brought was used before."""
        for changed in self._waiting.pop(source, ()):
            changed()

    def text(self, source: str) -> str | None:
        """What a source says: the same object until it changes. None as long as it could not be fetched."""
        return self._texts.get(source)

    def ask_again(self, source: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Have a URL fetched, as a key is unknown.

        :param changed: called once when there is an answer, even if it says the same as before
        :returns: what takes that back
        """
        waiting = self._waiting.setdefault(source, [])
        waiting.append(changed)
        if len(waiting) == 1:  # one question is enough for all
            self._ask(source)

        def forget() -> None:
            if changed in waiting:
                waiting.remove(changed)
            if not waiting and self._waiting.get(source) is waiting:
                del self._waiting[source]

        return forget
