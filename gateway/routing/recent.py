"""A memory of what was found out lately, bounded."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The latest values by key, ``most`` at most.

    There are two generations, and what is found in the older one moves to the younger. So a client that varies its
    requests cannot push out what others ask for all the time, and what is found costs one look-up.
    """

    __slots__ = ("_half", "_older", "_younger")

    def __init__(self, most: int) -> None:
        self._half = max(most // 2, 1)
        self._younger: dict[K, V] = {}
        self._older: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._younger) + len(self._older)

    def get(self, key: K) -> V | None:
        """Return what was kept for ``key``; None if nothing was, or it was pushed out."""
        value = self._younger.get(key)
        if value is None and self._older:
            value = self._older.pop(key, None)
            if value is not None:
                self.keep(key, value)
        return value

    def keep(self, key: K, value: V) -> None:
        """Keep ``value``, which is not None, for ``key``."""
        if len(self._younger) >= self._half:
            self._older = self._younger
            self._younger = {}
        self._younger[key] = value
