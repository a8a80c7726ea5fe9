"""The directory of the workers' metrics files."""

import os
import stat

import pytest

from gateway.processes.metrics_files import metrics_directory, remove_metrics


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A temporary directory, and one that systemd would make."""
    for name in ("run", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    return tmp_path


def test_a_new_one_is_for_this_user_only(places):
    made = {metrics_directory() for _ in range(3)}
    assert len(made) == 3
    for path in made:
        assert os.path.dirname(path) == str(places / "tmp")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_it_is_where_it_outlives_the_process(places, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{places}/run:/nowhere")
    assert os.path.dirname(metrics_directory()) == str(places / "run")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/nowhere")
    assert os.path.dirname(metrics_directory()) == str(places / "tmp")


@pytest.mark.parametrize("unusable", ["/nowhere", ""])
def test_a_temporary_directory_that_cannot_be_used(monkeypatch, unusable):
    monkeypatch.setenv("TMPDIR", unusable)
    path = metrics_directory()
    assert os.path.dirname(path) == "/tmp"
    remove_metrics(path)


def test_the_one_before_is_kept_while_it_is_there(caplog):
    before = metrics_directory()
    assert metrics_directory(before) == before
    remove_metrics(before)
    assert not caplog.records
    assert metrics_directory(before) != before
    assert "counters restart from zero" in caplog.text


def test_removing_one(places):
    path = metrics_directory()
    for name in ("counter_0.db", "histogram_1.db"):
        with open(os.path.join(path, name), "wb"):
            pass
    remove_metrics(path)
    remove_metrics(path)  # again does nothing
    assert os.listdir(places / "tmp") == []
