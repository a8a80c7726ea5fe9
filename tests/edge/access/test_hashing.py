"""Passwords and their hashes, in a thread."""

import asyncio
import threading

import argon2
import bcrypt
import pytest

from gateway.edge.access.hashing import Hashing, Job, Unusable, verify

ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def by_bcrypt(password):
    return bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()


@pytest.mark.parametrize("password", [b"", b"secret", "Grüße, 世界".encode(), b"a:b:c", b"\xff\xfe", b"x" * 72])
@pytest.mark.parametrize(
    "hashed",
    [
        ARGON2.hash,
        argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=argon2.Type.I).hash,
        argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=argon2.Type.D).hash,
        by_bcrypt,
        lambda password: by_bcrypt(password).replace("$2b$", "$2y$"),  # as htpasswd writes it
        lambda password: by_bcrypt(password).replace("$2b$", "$2a$"),
    ],
    ids=["argon2id", "argon2i", "argon2d", "2b", "2y", "2a"],
)
def test_every_kind(hashed, password):
    stored = hashed(password)
    assert verify(stored, password)
    assert not verify(stored, b"y" + password[1:] if password else b"y")


def test_bcrypt_looks_at_72_bytes():
    stored = by_bcrypt(b"x" * 72)
    assert verify(stored, b"x" * 80)
    assert not verify(stored, b"x" * 71)


def test_argon2_looks_at_all_of_it():
    stored = ARGON2.hash(b"x" * 80)
    assert verify(stored, b"x" * 80)
    assert not verify(stored, b"x" * 81)


@pytest.mark.parametrize(
    "stored",
    [
        "$2y$99$" + "a" * 53,
        "$argon2id$v=19$m=0,t=0,p=0$c2FsdHNhbHQ$aGFzaA",
        "$argon2id$v=19$m=8,t=1,p=1$!$!",
    ],
)
def test_a_hash_that_is_none(stored):
    with pytest.raises(Unusable):
        verify(stored, b"secret")


async def results(hashing, *jobs):
    """What becomes of jobs, in order."""
    found = []
    over = asyncio.Event()

    def done(number):
        def note(result):
            assert threading.current_thread() is threading.main_thread()
            found.append((number, result))
            if len(found) == len(jobs):
                over.set()

        return note

    for number, (stored, password, dropped) in enumerate(jobs):
        job = Job(stored, password, done(number))
        job.dropped = dropped
        hashing.add(job)
    await over.wait()
    return found


async def test_the_thread_answers_in_order():
    hashing = Hashing()
    stored = ARGON2.hash(b"right")
    assert await results(hashing, (stored, b"right", False), (stored, b"wrong", False)) == [(0, True), (1, False)]
    assert await results(hashing, (by_bcrypt(b"right"), b"right", False)) == [(0, True)]


async def test_what_nobody_waits_for_is_not_compared():
    compared = []
    hashing = Hashing(lambda stored, password: compared.append(stored) or True)
    assert await results(hashing, ("a", b"", True), ("b", b"", False)) == [(0, None), (1, True)]
    assert compared == ["b"]


async def test_a_failure_stops_nothing(caplog):
    def compare(stored, password):
        if stored == "bad":
            raise Unusable("bcrypt: no such cost")
        if stored == "worse":
            raise RuntimeError("out of the blue")
        return True

    answers = await results(Hashing(compare), ("bad", b"pw", False), ("worse", b"pw", False), ("good", b"pw", False))
    assert answers == [(0, None), (1, None), (2, True)]
    assert "no such cost" in caplog.text
    assert "out of the blue" in caplog.text
    assert "pw" not in caplog.text
    caplog.clear()
