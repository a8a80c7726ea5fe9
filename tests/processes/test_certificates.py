"""Files of certificates that change while the gateway runs, one look after another."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from gateway.config import load
from gateway.config.certificates import Certificates
from gateway.processes import certificates
from gateway.processes.certificates import CertificateWatch
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


class Rig:
    """Two certificates and a CA whose files change, and what the watch makes of that."""

    def __init__(self, authority, directory):
        self.authority = authority
        self.directory = directory
        for name in ("one", "two"):
            self.put(name, name)
        shutil.copy(authority.ca, directory / "ca.pem")
        file = directory / "gateway.yaml"
        file.write_text(
            "listen: [{address: '127.0.0.1:1', tls: {client_ca: ca.pem, certificates:"
            " [{cert: one.pem, key: one.key}, {cert: two.pem, key: two.key}]}}]\n"
            "upstreams: {a: {backends: ['127.0.0.1:2']}}\nroutes: [{name: a, upstream: a}]\n"
        )
        self.state = SimpleNamespace(certificates=[], certificate_errors={})
        self.changes = []
        self.watch = CertificateWatch(self.state, self.changes.append)
        self.watch.use(Certificates.read(load(file, {})))

    def put(self, name, issued, *suffixes):
        """Have the files of a name be those of another certificate."""
        pair = self.authority.issue(f"{issued}.example", file=issued)
        for path, suffix in zip(pair, (".pem", ".key"), strict=True):
            if not suffixes or suffix in suffixes:
                shutil.copy(path, self.directory / f"{name}{suffix}")

    def names(self):
        return [names for certificate in self.state.certificates for names in certificate.names]

    def errors(self):
        return [certificate.error for certificate in self.state.certificates]


@pytest.fixture
def rig(authority, tmp_path):
    return Rig(authority, tmp_path)


async def test_nothing_changes(rig):
    await rig.watch.look()
    assert rig.changes == []
    assert rig.names() == ["one.example", "two.example"]


async def test_a_new_pair(rig, caplog):
    caplog.set_level("INFO")
    rig.put("one", "new")
    await rig.watch.look()
    (found,) = rig.changes
    assert {name for pair in found.pairs.values() for name in pair.names} == {"new.example", "two.example"}
    assert rig.names() == ["new.example", "two.example"]
    assert str(rig.directory / "one.pem") in caplog.text
    assert str(rig.directory / "two.pem") not in caplog.text
    await rig.watch.look()
    assert len(rig.changes) == 1


async def test_what_has_not_changed_is_not_read(rig, monkeypatch):
    await rig.watch.look()
    read = []

    def noted(function):
        return lambda path, *others: read.append(path) or function(path, *others)

    for name in ("read_pair", "read_pem", "check_ca"):
        monkeypatch.setattr(certificates, name, noted(getattr(certificates, name)))
    rig.put("one", "changed")
    await rig.watch.look()
    await rig.watch.look()
    assert read == [str(rig.directory / "one.pem")]
    assert rig.names() == ["changed.example", "two.example"]


async def test_an_error_is_shown_while_others_change(rig, caplog):
    rig.put("one", "wrong", ".pem")
    for _ in range(2):
        await rig.watch.look()
    rig.put("two", "others")
    await rig.watch.look()
    assert "is not that of the certificate" in rig.errors()[0]
    assert rig.names() == ["one.example", "others.example"]
    assert rig.state.certificate_errors == {str(rig.directory / "one.pem"): 1}
    caplog.clear()


async def test_a_pair_that_is_half_written_in_one_look_is_no_error(rig, caplog):
    rig.put("one", "half", ".pem")
    await rig.watch.look()
    assert (rig.changes, rig.errors()) == ([], [None, None])
    shutil.copy(rig.authority.directory / "half.key", rig.directory / "one.key")
    shutil.copy(rig.authority.directory / "half.pem", rig.directory / "one.pem")
    await rig.watch.look()
    assert len(rig.changes) == 1
    assert rig.state.certificate_errors == {}
    assert "stays in use" not in caplog.text


async def test_a_broken_pair_is_reported_once_and_keeps_nothing_else_back(rig, caplog):
    rig.put("one", "broken", ".pem")
    rig.put("two", "second")
    for _ in range(4):
        await rig.watch.look()
    (found,) = rig.changes
    assert {name for pair in found.pairs.values() for name in pair.names} == {"one.example", "second.example"}
    assert rig.names() == ["one.example", "second.example"]
    assert rig.errors()[1] is None
    assert "is not that of the certificate" in rig.errors()[0]
    assert rig.state.certificate_errors == {str(rig.directory / "one.pem"): 1}
    assert caplog.text.count("the previous one stays in use") == 1


@pytest.mark.parametrize("name", ["one.key", "ca.pem"])
async def test_a_file_that_vanishes_and_comes_back(rig, name, caplog):
    kept = (rig.directory / name).read_bytes()
    (rig.directory / name).unlink()
    for _ in range(3):
        await rig.watch.look()
    assert caplog.text.count("there is no file") == 1
    (rig.directory / name).write_bytes(kept)
    await rig.watch.look()
    assert rig.errors() == [None, None]
    assert rig.changes == []


async def test_without_tls_there_is_nothing_to_watch():
    state = SimpleNamespace(certificates=[], certificate_errors={})
    watch = CertificateWatch(state, lambda found: 1 // 0)
    watch.use(Certificates.none())
    await watch.look()
    assert state.certificates == []
