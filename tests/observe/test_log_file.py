"""Lines are written whole or counted as lost, and half a line spoils no other."""

import errno
import os
import resource
import subprocess
import sys

import pytest

from gateway.observe import log_file
from gateway.observe.log_file import LogFile

LINES = b"first\nsecond\nthird\n"


class Disk:
    """Takes so many bytes more, then fails as ``write(2)`` does: at first with a short write."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room = room
        self._error = error
        self._write = os.write

    def write(self, fd: int, data: bytes) -> int:
        taken = min(self.room, len(data))
        if data and not taken:
            raise OSError(self._error, os.strerror(self._error))
        self.room -= taken
        return self._write(fd, data[:taken])


@pytest.fixture
def open_log(tmp_path):
    opened = []

    def opening(path=None):
        opened.append(LogFile(str(path or tmp_path / "access.log")))
        return opened[-1]

    yield opening
    for log in opened:
        log.close()


@pytest.mark.parametrize("room", range(len(LINES) + 1))
@pytest.mark.parametrize("other", ["the same worker", "another worker", "the next gateway"])
def test_a_disk_that_is_full_at_any_byte(open_log, tmp_path, monkeypatch, room, other):
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    log = open_log()
    second = log if other == "the same worker" else open_log()
    monkeypatch.setattr(log_file.os, "write", Disk(room).write)
    lost, error = log.write(LINES)
    assert lost == 3 - LINES[:room].count(b"\n")
    assert (error is None) == (room == len(LINES))
    for log_again in (log, second):
        lost, error = log_again.write(b"more\n")
        assert (lost, error.errno) == (1, errno.ENOSPC)
    monkeypatch.undo()
    if other == "the next gateway":
        second = open_log()
    for _ in range(2):
        assert second.write(b"after\n") == (0, None)
    half = LINES[:room].rpartition(b"\n")[2]
    whole = LINES[: room - len(half)]
    assert path.read_bytes() == b"before\n" + whole + (half + b"\n" if half else b"") + b"after\nafter\n"


def test_a_limit_of_the_size_of_files(tmp_path):
    """The real thing: RLIMIT_FSIZE gives a short write, then EFBIG."""
    path = tmp_path / "access.log"
    program = (
        "import resource, sys\n"
        "from gateway.observe.log_file import LogFile\n"
        "log = LogFile(sys.argv[1])\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))\n"
        f"lost, error = log.write({LINES!r})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "print(lost, error.errno, log.write(b'after\\n'))\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"2 {errno.EFBIG} (0, None)\n"
    assert path.read_bytes() == b"first\nseco\nafter\n"


def test_a_file_that_can_be_written_only(open_log, tmp_path, monkeypatch):
    """It cannot be looked whether it ends in half a line, so each process goes by what it wrote itself."""
    path = tmp_path / "access.log"
    real = os.open

    def no_reading(name, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "no")
        return real(name, flags, *mode)

    monkeypatch.setattr(log_file.os, "open", no_reading)
    log = open_log(path)
    monkeypatch.setattr(log_file.os, "write", Disk(9).write)
    assert log.write(LINES)[0] == 2
    monkeypatch.undo()
    assert log.write(b"after\n") == (0, None)
    assert path.read_bytes() == b"first\nsec\nafter\n"


def test_a_fifo_whose_reader_goes_in_the_middle_of_a_line(open_log, tmp_path, monkeypatch):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = open_log(path)
    assert not log.is_regular
    monkeypatch.setattr(log_file.os, "write", Disk(3, errno.EPIPE).write)
    assert log.write(LINES)[0] == 3
    monkeypatch.undo()
    assert log.write(b"after\n") == (0, None)
    assert os.read(read, 100) == b"fir\nafter\n"
    os.close(read)


def test_a_file_that_was_moved_away_in_the_middle_of_a_line(open_log, tmp_path, monkeypatch):
    path = tmp_path / "access.log"
    log = open_log(path)
    monkeypatch.setattr(log_file.os, "write", Disk(3).write)
    log.write(LINES)
    monkeypatch.undo()
    path.rename(tmp_path / "old.log")
    log.reopen()
    assert log.write(b"after\n") == (0, None)
    assert path.read_bytes() == b"after\n"


def test_dev_full(open_log):
    lost, error = open_log("/dev/full").write(LINES)
    assert (lost, error.errno) == (3, errno.ENOSPC)
