"""Files that can be read, and files that cannot."""

import os
import pickle
import threading

import pytest

from gateway.config import ConfigError, Problem, load
from tests.support.certificates import Authority

from .files import CONTRACT, MINIMAL, config_of


def complaint_about(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    authority = Authority(tmp_path, "internal")
    authority.issue("gw", client=True)
    authority.issue("chat")
    Authority(tmp_path, "clients")
    file = tmp_path / "gateway.yaml"
    file.write_text(CONTRACT)
    assert load(file) == load(str(file)) == config_of(CONTRACT)


def test_problems_name_the_file_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(MINIMAL.replace("listen", "listne"))
    with pytest.raises(ConfigError) as caught:
        load("bad.yaml")
    missing, unknown = caught.value.problems
    assert missing == Problem(
        file="bad.yaml",
        line=1,
        column=1,
        key=("listen",),
        message="this key is required",
        hint="add it: Addresses to accept clients on",
    )
    assert (unknown.key, unknown.message) == (("listne",), "unknown key")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_a_missing_file(tmp_path):
    assert complaint_about(tmp_path / "none") == (
        f"{tmp_path}/none:1:1: file: there is no such file (the path of one, after -c or in $GATEWAY_CONFIG)"
    )


def test_a_directory(tmp_path):
    assert complaint_about(tmp_path) == (f"{tmp_path}:1:1: file: this is a directory (the path of a file in it)")


@pytest.fixture
def _no_root():
    """Root may read everything: be nobody meanwhile."""
    user = os.geteuid()
    if user:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(user)


def test_a_file_that_may_not_be_read(tmp_path, request):
    file = tmp_path / "secret"
    file.touch(0o000)
    request.getfixturevalue("_no_root")
    assert "this user may not read it" in complaint_about(file)


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "/dev/null/a"])
def test_a_path_that_leads_nowhere(path):
    line = complaint_about(path)
    assert ":1:1: file: " in line
    assert line.isprintable()


def test_bytes_that_are_not_utf8(tmp_path):
    file = tmp_path / "latin1.yaml"
    file.write_bytes("# über\n# é caf".encode() + b"\xe9: 1\n")
    assert complaint_about(file) == (f"{file}:2:8: file: the byte 0xe9 is not UTF-8 here (a file saved as UTF-8)")


def test_a_file_without_end():
    assert complaint_about("/dev/zero") == ("/dev/zero:1:1: file: has more than 1048576 bytes (a gateway.yaml)")


def test_a_pipe(tmp_path):
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_text, args=(MINIMAL,))
    writer.start()
    assert load(fifo) == config_of(MINIMAL)
    writer.join()
