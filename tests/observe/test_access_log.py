"""Lines of the access log: their form, where they go, and that nobody who reads them can hold the gateway up."""

import asyncio
import fcntl
import json
import math
import os
import re
import select
import sys
import threading
from contextlib import contextmanager, suppress
from datetime import datetime
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.observe import access_log as access_log_module
from gateway.observe import forms, log_file
from gateway.observe.access_log import MAX_TEXT, AccessLog
from gateway.observe.forms import Form
from tests.support.deadline import within

from ..support.deadline import DEADLINE_SECONDS, eventually

NOW = "2026-07-01T12:00:00.000+00:00"
WORD = re.compile(r' ([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "\\]+)')
PIPE_BYTES = 4096


@contextmanager
def access_log(path, form="json"):
    """A log, and the counts that it was told of lines lost. It leaves neither a thread nor a descriptor behind."""
    lost = []
    before = set(os.listdir("/proc/self/fd"))
    log = AccessLog(None if path is None else str(path), form, lost.append)
    try:
        yield log, lost
    finally:
        log.close()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert "access-log" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def pipe():
    """The path of a small pipe, and the end to read from."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield f"/proc/self/fd/{write}", read
    os.close(read)
    os.close(write)


def form_of(fields):
    """A form for these fields, of which the first is the event."""
    event, *names = fields
    return Form(fields[event], **dict.fromkeys(names, "%s"))


def say(log, fields):
    log.write(form_of(fields), list(fields.values())[1:])


def json_line(fields):
    return form_of(fields).json(NOW, list(fields.values())[1:])


def text_line(fields):
    return form_of(fields).text(NOW, list(fields.values())[1:])


def events(path):
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


# --- the form of a line -----------------------------------------------------------------------------------------------


def parsed_text(line):
    """What a line of text says, read as a human or a log shipper would."""
    assert line.endswith("\n")
    time, event, rest = re.fullmatch(r"(\S+) (\S+)(.*)\n", line).groups()
    assert "".join(word[0] for word in WORD.finditer(rest)) == rest
    values = {key: json.loads(value) if value.startswith('"') else value for key, value in WORD.findall(rest)}
    return {"time": time, "event": event, **values}


FIELDS = {"event": "handshake", "client": "192.0.2.7:1", "status": 101, "duration": 0.25, "backend": None}


def test_json():
    assert json_line(FIELDS) == (
        f'{{"time":"{NOW}","event":"handshake","client":"192.0.2.7:1","status":101,"duration":0.25,"backend":null}}\n'
    )


def test_text():
    assert text_line(FIELDS) == f"{NOW} handshake client=192.0.2.7:1 status=101 duration=0.25\n"


HOSTILE = st.text() | st.text("\"'\\ =\n\r\t{},:a\u2028\x85\x1b\x7f\ud800")


@given(HOSTILE, HOSTILE)
def test_no_value_forges_a_line_or_a_key(path, reason):
    fields = {"event": "handshake", "path": path, "status": 404, "reason": reason, "duration": 0.5}
    line = json_line(fields)
    assert json.loads(line) == {"time": NOW, **fields}
    text = text_line(fields)
    assert parsed_text(text) == {"time": NOW, **fields, "status": "404", "duration": "0.5"}
    for made in (line, text):
        assert made.isascii()
        assert made[:-1].isprintable()


NUMBERS = st.integers(-(2**70), 2**70)
SECONDS = st.floats() | st.floats(0, 1e7).map(lambda seconds: round(seconds, 4))
HALVES = st.builds(
    lambda whole, towards: math.nextafter((whole + 0.5) / 1000, towards), st.integers(0, 10**6), st.floats(0, 1e9)
)
"""Of a thousandth, or next to it: where rounding is decided."""


@given(HOSTILE | st.none() | NUMBERS | SECONDS | st.booleans(), NUMBERS, SECONDS | HALVES, SECONDS | NUMBERS)
@example(-0.0, 0, 0.0, -0.0)
@example(None, 0, 0.0005, 1e300)
@example(None, 0, 0.9995, 0.9999995)
@example(None, 0, 99_999_999.9995, 99_999.9999995)
def test_a_line_is_the_same_either_way(value, number, seconds, microseconds):
    form = Form("e", value="%s", number="%d", seconds="%.3f", microseconds="%.6f")
    values = (value, number, seconds, microseconds)
    with mock.patch.object(forms, "json_line", return_value=None):
        general = form.json(NOW, values)
    assert form.json(NOW, values) == general


@pytest.mark.parametrize("size", [4000, 4050, 4096, 5000])
def test_a_line_that_is_long(size):
    fields = {"event": "e", "path": "x" * size, "more": "y" * 50}
    assert json.loads(json_line(fields)) == {"time": NOW, **fields}


def test_a_forged_line():
    fields = {"event": "handshake", "reason": f"x\n{NOW} tunnel_end client=1"}
    assert text_line(fields).count("\n") == 1
    assert text_line({"event": "e", "path": "/a status=200"}) == f'{NOW} e path="/a status=200"\n'
    assert text_line({"event": "e", "path": ""}) == f'{NOW} e path=""\n'


# --- where lines go ---------------------------------------------------------------------------------------------------


async def test_a_file_is_appended_to(tmp_path):
    path = tmp_path / "access.log"
    path.write_text('{"event":"before"}\n')
    with access_log(path) as (log, lost):
        say(log, {"event": "a", "path": "/caf\xe9"})
        say(log, {"event": "b"})
    assert events(path) == ["before", "a", "b"]
    line = json.loads(path.read_text().splitlines()[1])
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - path.stat().st_mtime) < 60
    assert line["path"] == "/caf\xe9"
    assert lost == []


async def test_text_goes_to_a_file(tmp_path):
    with access_log(tmp_path / "access.log", "text") as (log, _):
        say(log, {"event": "a", "status": 101})
    assert re.fullmatch(r"\S+ a status=101\n", (tmp_path / "access.log").read_text())


async def test_lines_come_without_being_asked_for(pipe):
    path, read = pipe
    with access_log(path) as (log, _):
        say(log, {"event": "a"})
        say(log, {"event": "b"})
        lines = (await within(asyncio.to_thread(os.read, read, 1000), "lines")).splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["a", "b"]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("letter", ["a", "\x1b", "é", '"'])
async def test_long_values_are_cut_so_that_a_pipe_takes_a_line_in_one_piece(tmp_path, form, letter):
    path = tmp_path / "access.log"
    values = {"client": letter * 70, "host": letter * 5000, "path": letter * 16000, "reason": letter * 600}
    with access_log(path, form) as (log, _):
        say(log, {"event": "short", "path": letter * 150})
        say(log, {"event": "long", "count": 10**20, "none": None, **values})
    short, long = path.read_text().splitlines(keepends=True)
    assert len(long) <= select.PIPE_BUF
    assert str(10**20) in long
    short, long = (json.loads(line) if form == "json" else parsed_text(line) for line in (short, long))
    assert short["path"] == letter * 150
    assert {key: long[key] for key in values} == {key: value[:MAX_TEXT] for key, value in values.items()}


async def test_stdout(capfd):
    with access_log("-") as (log, _):
        say(log, {"event": "a"})
        log.reopen()
        say(log, {"event": "b"})
    assert [json.loads(line)["event"] for line in capfd.readouterr().out.splitlines()] == ["a", "b"]


async def test_off(tmp_path):
    with access_log(None) as (log, lost):
        assert not log.enabled
        say(log, {"event": "a"})
        log.reopen()
    assert lost == []


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        AccessLog(str(tmp_path / "none" / "access.log"), "json", print)


async def test_nothing_is_written_after_the_end(tmp_path):
    path = tmp_path / "access.log"
    with access_log(path) as (log, _):
        say(log, {"event": "a"})
    say(log, {"event": "b"})
    path.unlink()
    log.reopen()
    log.close()
    assert not path.exists()


# --- rotation ---------------------------------------------------------------------------------------------------------


async def test_a_file_that_was_moved_away(tmp_path):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with access_log(path) as (log, _):
        say(log, {"event": "a"})
        log.close()
    with access_log(path) as (log, _):
        path.rename(old)
        say(log, {"event": "b"})
        log.reopen()
        say(log, {"event": "c"})
        log.reopen()
    assert events(old) + events(path) == ["a", "b", "c"]
    assert "c" in events(path)
    assert path.stat().st_mode & 0o027 == 0


async def test_a_place_that_is_gone(tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "access.log"
    with access_log(path) as (log, lost):
        moved = tmp_path / "moved.log"
        path.rename(moved)
        directory.rmdir()
        with pytest.raises(FileNotFoundError):
            log.reopen()
        say(log, {"event": "a"})
    assert events(moved) == ["a"]
    assert lost == []


# --- readers that do not read -----------------------------------------------------------------------------------------


async def test_a_reader_that_stalls_blocks_nobody_and_what_is_lost_is_counted(pipe, monkeypatch):
    monkeypatch.setattr(access_log_module, "MAX_WAITING", 200)
    path, read = pipe
    with access_log(path) as (log, lost):
        for i in range(1000):
            say(log, {"event": "e", "number": i, "path": "/" + "x" * 400})
            if i % 10 == 0:
                log.flush()
        # Nobody reads, and the pipe holds no more than ten of them.
        assert sum(lost) >= 1000 - 200 - 2 * PIPE_BYTES // 400
        reading = asyncio.create_task(asyncio.to_thread(read_lines, read, 1000 - sum(lost)))
        numbers = await within(reading, "all lines")
        assert len(set(numbers)) == len(numbers) == 1000 - sum(lost)
        assert numbers == sorted(numbers)
        # It reads again: so there is room again.
        before = sum(lost)
        say(log, {"event": "e", "number": 1000})
        log.flush()
        assert await asyncio.to_thread(read_lines, read, 1) == [1000]
        assert sum(lost) == before


def read_lines(fd, count):
    """The numbers of the next lines: each is whole, however large the pieces that the pipe was written in."""
    data = b""
    while data.count(b"\n") < count:
        assert select.select([fd], [], [], DEADLINE_SECONDS)[0], f"{data.count(10)} lines came, not {count}"
        data += os.read(fd, 65536)
    return [json.loads(line)["number"] for line in data.splitlines()]


async def test_the_end_does_not_wait_for_a_reader_for_ever(pipe):
    path, read = pipe
    lost = []
    log = AccessLog(path, "json", lost.append)
    thread = log._thread
    for _ in range(20):
        say(log, {"event": "e", "number": 0, "path": "x" * 500})
    log.close(wait_seconds=0.01, process_ends=False)
    assert thread.is_alive()
    assert await asyncio.to_thread(read_lines, read, 20) == [0] * 20
    thread.join(10)
    assert not thread.is_alive()
    assert lost == []


async def test_what_is_not_written_when_the_process_ends_is_counted_once(pipe):
    path, read = pipe
    lost = []
    log = AccessLog(path, "json", lost.append)
    thread = log._thread
    for batch in range(3):
        for _ in range(20):
            say(log, {"event": "e", "number": batch, "path": "x" * 500})
        log.flush()
    log.close(wait_seconds=0.01)
    assert lost == [60]
    os.set_blocking(read, False)
    while thread.is_alive():
        select.select([read], [], [], 0.01)
        with suppress(BlockingIOError):
            os.read(read, 65536)
    assert lost == [60]


async def test_a_reader_that_went_away(tmp_path):
    read, write = os.pipe()
    with access_log(f"/proc/self/fd/{write}") as (log, lost):
        os.close(read)
        for _ in range(3):
            say(log, {"event": "e"})
        log.flush()
        say(log, {"event": "e"})
    os.close(write)
    assert sum(lost) == 4


async def test_a_disk_that_is_full():
    with access_log("/dev/full") as (log, lost):
        say(log, {"event": "e"})
        say(log, {"event": "e"})
    assert lost == [2]


async def test_pieces_of_a_pipe_end_where_lines_do(pipe, monkeypatch):
    """Writes of up to ``PIPE_BUF`` bytes are never mixed with another worker's; lines must not straddle them."""
    path, read = pipe
    pieces = []
    write = os.write

    def recording(fd, data):
        pieces.append(bytes(data))
        return write(fd, data)

    monkeypatch.setattr(log_file.os, "write", recording)
    with access_log(path) as (log, _):
        for i in range(100):
            say(log, {"event": "e", "number": i, "path": "x" * (i * 5)})
        log.flush()
        assert await asyncio.to_thread(read_lines, read, 100) == list(range(100))
    assert len(pieces) > 1
    assert all(len(piece) <= PIPE_BYTES and piece.endswith(b"\n") for piece in pieces)


async def test_a_pipe_that_others_made_non_blocking(pipe):
    path, read = pipe
    with access_log(path) as (log, lost):
        os.set_blocking(log._file._fd, False)
        for i in range(100):
            say(log, {"event": "e", "number": i, "path": "x" * 400})
        log.flush()
        assert await asyncio.to_thread(read_lines, read, 100) == list(range(100))
    assert lost == []


# --- counts that two threads change -----------------------------------------------------------------------------------


async def test_the_room_for_lines_is_exact_when_two_threads_count(tmp_path, monkeypatch):
    """The loop adds lines while the thread takes them away: after all of them there is as much room as at first."""
    monkeypatch.setattr(access_log_module, "MAX_WAITING", 1 << 30)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    interval = sys.getswitchinterval()
    try:
        with access_log(fifo) as (log, lost):
            # What stands for the file is quick, so that the threads count at the same time as often as can be.
            monkeypatch.setattr(log._file, "write", lambda lines: (0, None))
            sys.setswitchinterval(1e-6)
            form = Form("e", number="%d")
            for _ in range(2_000):
                log.write(form, (1,))
                log.flush()
            sys.setswitchinterval(interval)
            log.write(form, (2,))
            log.flush()
            await eventually(log._queue.empty, "the thread")
            # Room for one: it is taken, and the one after it is lost.
            monkeypatch.setattr(access_log_module, "MAX_WAITING", 1)
            await eventually(lambda: log._handed_over == log._dealt_with, "the last line's count")
            log.write(form, (3,))
            log.write(form, (4,))
            assert lost == [1]
    finally:
        sys.setswitchinterval(interval)
        os.close(read)
