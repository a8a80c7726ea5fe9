"""Answers to user names and passwords, for all routes of a worker: known for a while, or found out by a thread."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

from gateway.edge.access.attempts import Attempts, Source
from gateway.edge.access.granted import Granted
from gateway.edge.access.hashing import Hashing, Job
from gateway.edge.access.method import Cancel, Verdict, Waiting
from gateway.edge.refused import Refused
from gateway.routing.recent import Recent

KEPT_SECONDS = 60.0
"""How long an answer is kept. A changed file makes answers about the users that it changes useless at once."""

MOST_RIGHT = 16 * 1024
MOST_WRONG = 4 * 1024
"""Kept apart from the right ones, so that guesses evict none of those."""

MOST_QUEUED = 64
"""Passwords that wait for the thread, of different users or different passwords."""

MOST_OF_A_SOURCE = 16
"""Of these, from one address."""

log = logging.getLogger("gateway")


class Passwords:
    """What is known of passwords."""

    def __init__(self, hashing: Hashing | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """:param clock: in seconds"""
        self._hashing = hashing or Hashing()
        self._clock = clock
        self._secret = os.urandom(32)
        self._right: Recent[bytes, tuple[float, Granted]] = Recent(MOST_RIGHT)
        self._wrong: Recent[bytes, float] = Recent(MOST_WRONG)
        self._asked: dict[bytes, _Question] = {}
        self._of_source: Counter[Source] = Counter()
        self._attempts = Attempts(clock)

    def check(
        self, name: str, password: bytes, stored: str | None, instead: str, source: Source | None, denied: Refused
    ) -> Granted | Waiting:
        """Find out whether a password is right.

        :param stored: the user's hash; None if there is no such user
        :param instead: a hash with which the password is compared then: that takes as long
        :param source: where the request comes from
        :param denied: the answer to a wrong one
        :raises Refused: it is known to be wrong, or cannot be found out now
        """
        key = self._key(name.encode(), password, (stored or "").encode())
        now = self._clock()
        right = self._right.get(key)
        if right is not None and now < right[0]:
            return right[1]
        wrong_until = self._wrong.get(key)
        if wrong_until is not None and now < wrong_until:
            # It was counted when it was found out: a client that repeats it is broken rather than guessing.
            raise denied
        wait = self._attempts.wait_seconds(source)
        if wait:
            retry = (b"Retry-After", b"%d" % math.ceil(wait))
            raise Refused(429, "too many wrong passwords from this address", "limited", fields=(retry,))
        if key not in self._asked and (
            len(self._asked) >= MOST_QUEUED or (source is not None and self._of_source[source] >= MOST_OF_A_SOURCE)
        ):
            raise Refused(503, "too many passwords are being checked", "unavailable")  # with a Retry-After, as any 503

        def start(verdict: Verdict) -> Cancel:
            question = self._asked.get(key)
            if question is None:
                question = self._asked[key] = _Question(name, stored is not None, source)
                question.job = Job(stored or instead, password, lambda same: self._answered(key, question, same))
                if source is not None:
                    self._of_source[source] += 1
                self._hashing.add(question.job)
            asking = (verdict, source, denied)
            question.asking.append(asking)

            def cancel() -> None:
                if asking in question.asking:
                    question.asking.remove(asking)
                if not question.asking and self._asked.get(key) is question:
                    # It stays in the thread's queue, and is done with as soon as its turn comes.
                    question.job.dropped = True
                    self._forget(key, question)

            return cancel

        return start

    def _key(self, *parts: bytes) -> bytes:
        """Identify a password of a user. The password cannot be found by this, not even by trying: it is keyed."""
        hashed = blake2b(key=self._secret, digest_size=32)
        for part in parts:
            hashed.update(len(part).to_bytes(4, "big"))
            hashed.update(part)
        return hashed.digest()

    def _answered(self, key: bytes, question: _Question, same: bool | None) -> None:
        if self._asked.get(key) is not question:
            return  # all clients have left
        self._forget(key, question)
        asking, question.asking = question.asking, []
        until = self._clock() + KEPT_SECONDS
        answer: Granted | Refused | None = None
        if same is None:
            answer = Refused(503, "the password cannot be checked", "unavailable")
        elif same and question.exists:
            answer = Granted(question.name)
            self._right.keep(key, (until, answer))
        else:
            self._wrong.keep(key, until)
            for source in {source for _, source, _ in asking}:
                self._attempts.failed(source)
        for verdict, _, denied in asking:
            try:
                verdict(answer or denied)
            except Exception:
                log.exception("the answer to a password could not be used")

    def _forget(self, key: bytes, question: _Question) -> None:
        del self._asked[key]
        source = question.source
        if source is not None:
            self._of_source[source] -= 1
            if not self._of_source[source]:
                del self._of_source[source]


class _Question:
    """A password that is being compared, for every request that has it."""

    __slots__ = ("asking", "exists", "job", "name", "source")

    def __init__(self, name: str, exists: bool, source: Source | None) -> None:
        self.name = name
        self.exists = exists
        """whether there is such a user"""
        self.source = source
        """where the first of the requests came from"""
        self.asking: list[tuple[Verdict, Source | None, Refused]] = []
        self.job: Job
