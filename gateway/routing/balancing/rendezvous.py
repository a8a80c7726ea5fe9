"""Which backends a key prefers, in order: weighted rendezvous hashing, the same on every machine.

Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998): each pair of a key and a backend has a
score, and the key goes to the backend with the best one. So a backend that leaves moves its own keys only, and one that
comes takes its share from all others alike.

Keys fall into :data:`BUCKETS`, and a bucket's order is worked out when it is first needed, and kept. Scores come from
BLAKE2b of label and bucket, and with weights from ``scores.py``.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from weakref import WeakValueDictionary

from gateway.routing.balancing.scores import score

BUCKETS = 1 << 16
"""So many that the shares of ten backends differ by about 1 % from what they ought to be."""

TOP = 4
"""Choices of a bucket that are kept."""

CHOICE_BITS = 16
NO_CHOICE = 0
Members = tuple[tuple[str, int], ...]
"""Labels and weights."""

_known: WeakValueDictionary[Members, Rendezvous] = WeakValueDictionary()


class Rendezvous:
    """The order in which keys prefer some backends."""

    __slots__ = ("__weakref__", "_bases", "_equal", "_top", "_weights", "labels")

    def __init__(self, members: Members) -> None:
        """:param members: sorted, so that their order in the configuration is of no matter"""
        self.labels = [label for label, _ in members]
        self._weights = [weight for _, weight in members]
        self._equal = len(set(self._weights)) <= 1
        self._bases = []
        for label in self.labels:
            name = label.encode()
            self._bases.append(blake2b(b"%d:%b" % (len(name), name), digest_size=8, person=b"gateway-backend"))
        self._top = array("Q", bytes(8 * BUCKETS))

    @classmethod
    def of(cls, members: Sequence[tuple[str, int]]) -> Rendezvous:
        """The order for these labels and weights. It is shared by all that use the same ones, over reloads too."""
        key = tuple(sorted(members))
        found = _known.get(key)
        if found is None:
            found = _known[key] = cls(key)
        return found

    def top(self, bucket: int) -> int:
        """The first :data:`TOP` choices of a bucket: ``CHOICE_BITS`` each from the lowest, a place in ``labels`` plus
        1, or ``NO_CHOICE`` where there are no more backends."""
        return self._top[bucket] or self._fill(bucket)

    def order(self, bucket: int) -> list[int]:
        """All choices of a bucket, best first, as places in ``labels``."""
        suffix = bucket.to_bytes(2, "little")
        hashes = []
        for base in self._bases:
            mixed = base.copy()
            mixed.update(suffix)
            hashes.append(int.from_bytes(mixed.digest(), "little"))
        if self._equal:
            return sorted(range(len(hashes)), key=hashes.__getitem__, reverse=True)
        scores = list(map(score, hashes, self._weights))
        return sorted(range(len(scores)), key=scores.__getitem__)

    def _fill(self, bucket: int) -> int:
        packed = 0
        for place, choice in enumerate(self.order(bucket)[:TOP]):
            packed |= (choice + 1) << (CHOICE_BITS * place)
        self._top[bucket] = packed
        return packed


def bucket_of(key: bytes) -> int:
    """The bucket that a key falls into."""
    return int.from_bytes(blake2b(key, digest_size=2, person=b"gateway-key").digest(), "little")
