"""Files that list backends: what is wrong in one of them stops neither its other entries nor other files."""

import json
import os

import pytest

from gateway.processes.target_files import TargetFiles


class Watched:
    """Some files, and what was made of them."""

    def __init__(self, *paths):
        self.backends = {}
        self.is_complete = {}
        self.failed = []
        self.recovered = []
        self.files = TargetFiles(self._found, lambda *failure: self.failed.append(failure), self.recovered.append)
        self.files.watch(map(str, paths), lambda path: None)

    def _found(self, path, backends, complete):
        self.backends[path] = [str(backend.address) for backend in backends]
        self.is_complete[path] = complete

    async def look(self):
        """What is broken is looked at twice."""
        await self.files.look()
        await self.files.look()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "targets.json"


def write(path, *targets):
    """As is usual: a new file is renamed over the old one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps([{"targets": targets}]))
    new.rename(path)


async def test_good_entries_count_and_bad_ones_take_nothing_away(path):
    watched = Watched(path)
    write(path, "10.0.0.1:1", "10.0.0.2:1")
    await watched.look()
    write(path, "10.0.0.3:1", "10.0.0.2:70000", "10.0.0.1", "10.0.0.1:1")
    await watched.look()
    assert watched.backends == {str(path): ["10.0.0.3:1", "10.0.0.1:1", "10.0.0.2:1"]}
    assert watched.is_complete == {str(path): False}
    assert watched.failed == [(str(path), 'entry 1: "70000" is not a port (and 1 more)')]
    assert not watched.recovered
    write(path, "10.0.0.3:1", "10.0.0.1:1")
    await watched.look()
    assert watched.backends == {str(path): ["10.0.0.3:1", "10.0.0.1:1"]}
    assert watched.is_complete == {str(path): True}
    assert watched.recovered == [str(path)]


async def test_a_fifo_stops_nobody(path, tmp_path):
    other = tmp_path / "other.json"
    write(path, "10.0.0.1:1")
    write(other, "10.0.0.2:1")
    watched = Watched(path, other)
    await watched.look()
    path.unlink()
    os.mkfifo(path)
    write(other, "10.0.0.3:1")
    await watched.look()
    assert watched.backends == {str(path): ["10.0.0.1:1"], str(other): ["10.0.0.3:1"]}
    assert watched.failed == [(str(path), "cannot be read: Not a regular file")]
    path.unlink()
    write(path, "10.0.0.4:1")
    await watched.look()
    assert watched.backends[str(path)] == ["10.0.0.4:1"]
    assert watched.recovered == [str(path)]
