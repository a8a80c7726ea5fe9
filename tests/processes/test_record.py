"""A record is one text or the other, whenever its writer dies."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.processes import record


@pytest.fixture
def fd() -> Iterator[int]:
    made = record.create()
    yield made
    os.close(made)


def test_it_begins_empty(fd: int) -> None:
    assert record.read(fd) == b""


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_the_latest_text_is_read(texts: list[bytes]) -> None:
    fd = record.create()
    try:
        for text in texts:
            record.write(fd, text)
            assert record.read(fd) == text
        longest = max((len(text) for text in texts), default=0)
        assert os.fstat(fd).st_size <= record.FIRST_BYTE + 3 * longest + 1
    finally:
        os.close(fd)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("before", "after"), [(b"short", b"x" * 9000), (b"y" * 9000, b"short"), (b"same", b"size")])
def test_whoever_writes_may_be_killed_at_any_time(
    fd: int, monkeypatch: pytest.MonkeyPatch, before: bytes, after: bytes
) -> None:
    """Between two system calls, and in the middle of one that writes the text."""
    writes, truncate = os.pwrite, os.ftruncate
    for survives in range(20):
        record.write(fd, before)
        calls = 0

        def pwrite(fd: int, data: bytes, at: int, survives: int = survives) -> int:
            nonlocal calls
            calls += 1
            if calls > survives:
                if at:
                    writes(fd, data[:7], at)  # as many bytes as it got to
                raise Killed
            return writes(fd, data[:1000], at)

        def ftruncate(fd: int, size: int, survives: int = survives) -> None:
            nonlocal calls
            calls += 1
            if calls > survives:
                raise Killed
            truncate(fd, size)

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "ftruncate", ftruncate)
        try:
            record.write(fd, after)
        except Killed:
            assert record.read(fd) in (before, after)
        else:
            assert record.read(fd) == after
            return
        finally:
            monkeypatch.undo()
    raise AssertionError("it was killed each time")


def test_what_is_no_record_is_not_read(fd: int) -> None:
    other = os.memfd_create("other")
    for data in (b"", b"x" * 100):
        os.pwrite(other, data, 0)
        with pytest.raises(ValueError, match="not a record"):
            record.read(other)
    os.close(other)
    record.write(fd, b"a text")
    os.pwrite(fd, b"A", record.FIRST_BYTE)
    with pytest.raises(ValueError, match="damaged"):
        record.read(fd)
    os.ftruncate(fd, record.FIRST_BYTE)
    with pytest.raises(ValueError, match="not a record"):
        record.read(fd)
