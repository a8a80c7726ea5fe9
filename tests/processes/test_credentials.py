"""Files of users and keys that change while the gateway runs, one look after another."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import pytest_asyncio

from gateway.config import load
from gateway.config.credentials import Credentials
from gateway.processes import credentials
from gateway.processes.credentials import CredentialWatch
from tests.support.certificates import Authority
from tests.support.deadline import eventually
from tests.support.key_server import KeyServer, key_set

ANN, BOB = (f"{name}:$2y$05${name[0] * 53}\n" for name in ("ann", "bob"))


class Rig:
    """A file of users, one of keys, and a URL, and what the watch makes of them."""

    def __init__(self, directory, url, ca):
        self.users, self.keys, self.ca = (directory / name for name in ("users", "keys.json", "ca.pem"))
        self.users.write_text(ANN)
        self.keys.write_text(key_set("one"))
        self.ca.write_text(ca)
        self.config = directory / "gateway.yaml"
        self.config.write_text(
            "listen: [{address: '127.0.0.1:1'}]\nupstreams: {a: {backends: ['127.0.0.1:2']}}\nroutes:\n"
            "- {name: a, upstream: a, match: {path: /a}, auth: {basic: {users: users}}}\n"
            "- {name: b, upstream: a, match: {path: /b}, auth: {jwt: {keys: keys.json, algorithms: [RS256]}}}\n"
            f"- {{name: c, upstream: a, auth: {{jwt: {{keys: '{url}?secret', ca: ca.pem, algorithms: [RS256]}}}}}}\n"
        )
        self.state = SimpleNamespace(credentials=[], credential_errors={}, key_set_fetches=Counter())
        self.changes = []
        self.fetched = []
        self.watch = CredentialWatch(self.state, self.changes.append, self.fetched.append, lambda url: None)
        self.use()

    def use(self):
        self.watch.use(self.read())

    def read(self):
        return Credentials.read(load(self.config, {}))

    def shown(self):
        return {
            each.source.rpartition("/")[2]: (each.kind, each.entries, each.error) for each in self.state.credentials
        }


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca")).ca.read_text()


@pytest_asyncio.fixture
async def rig(tmp_path, ca):
    server = await KeyServer.start()
    made = Rig(tmp_path, server.url.replace("127.0.0.1", "localhost"), ca)
    yield made
    await made.watch.close()
    await server.down()


async def test_nothing_changes(rig):
    assert rig.shown() == {"users": ("users", 1, None), "keys.json": ("keys", None, None)}
    await rig.watch.look()
    await rig.watch.look()
    assert rig.changes == []


async def test_what_is_fetched_is_passed_on_and_shown(rig):
    await eventually(lambda: rig.fetched, "a key set")
    ((url, text),) = rig.fetched[0].items()
    assert url.endswith("?secret")
    assert text == key_set("one")
    fetched = rig.state.credentials[-1]
    assert (fetched.entries, fetched.error) == (1, None)
    assert fetched.unix is not None
    assert "secret" not in fetched.source
    assert rig.state.key_set_fetches == {("c", True): 1}


@pytest.mark.parametrize("text", [ANN + BOB, "", "# nobody\n"])
async def test_other_users(rig, text, caplog):
    caplog.set_level("INFO")
    rig.users.write_text(text)
    await rig.watch.look()
    (found,) = rig.changes
    assert found.users == {str(rig.users): text}
    assert found.texts == {str(rig.users): text, str(rig.keys): key_set("one"), str(rig.ca): rig.ca.read_text()}
    assert rig.state.credentials[0].entries == text.count("$2y$")
    assert f"credentials read again: {rig.users}\n" in caplog.text
    assert "$2y$" not in caplog.text


async def test_other_keys(rig):
    rig.keys.write_text(key_set("one", "two"))
    await rig.watch.look()
    (found,) = rig.changes
    assert found.key_sets == {str(rig.keys): key_set("one", "two")}


@pytest.mark.parametrize("broken", ["ann:{SHA}x\n", None, "ann\n", b"\xff\n"])
async def test_a_broken_file(rig, broken, caplog):
    if broken is None:
        rig.users.unlink()
    else:
        rig.users.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    await rig.watch.look()
    assert rig.state.credential_errors == {}  # it may be half written
    await rig.watch.look()
    await rig.watch.look()
    assert rig.changes == []
    assert rig.state.credential_errors == {str(rig.users): 1}
    assert caplog.text.count("what was there before stays in use") == 1
    assert rig.state.credentials[0].error is not None
    assert rig.state.credentials[0].entries == 1
    caplog.clear()

    rig.users.write_text(BOB)
    await rig.watch.look()
    assert rig.changes[0].users == {str(rig.users): BOB}
    assert rig.state.credentials[0].error is None


async def test_one_that_is_broken_keeps_no_other_from_changing(rig, caplog):
    rig.users.write_text("broken\n")
    rig.keys.write_text(key_set("two"))
    await rig.watch.look()
    await rig.watch.look()
    (found,) = rig.changes
    assert found.users == {str(rig.users): ANN}
    assert found.key_sets == {str(rig.keys): key_set("two")}
    caplog.clear()


async def test_what_has_not_changed_is_not_read(rig, monkeypatch):
    await rig.watch.look()
    read = []
    for name in ("check_users", "check_key_set", "check_ca_file"):
        check = getattr(credentials, name)
        monkeypatch.setattr(credentials, name, lambda path, check=check: read.append(path) or check(path))
    rig.keys.write_text(key_set("two"))
    await rig.watch.look()
    assert read == [str(rig.keys)]
    (found,) = rig.changes
    assert found.users == {str(rig.users): ANN}


async def test_another_ca_is_used_for_the_key_server(rig, tmp_path):
    other = Authority(tmp_path, "Other").ca.read_text()
    rig.ca.write_text(other)
    await rig.watch.look()
    (url,) = rig.watch.key_sets.sets
    assert rig.watch.key_sets.sets[url].cas == [other]


async def test_a_change_while_a_reload_is_under_way_is_seen_afterwards(rig):
    """Workers get what the reload has read until it is over."""
    read = rig.read()
    with rig.watch.held():
        rig.users.write_text(BOB)
        await rig.watch.look()
        assert rig.changes == []
    rig.watch.use(read)
    await rig.watch.look()
    (found,) = rig.changes
    assert found.users == {str(rig.users): BOB}


async def test_key_sets_of_a_configuration_to_come(rig, tmp_path):
    server = await KeyServer.start()
    try:
        rig.config.write_text(rig.config.read_text().replace("keys.json, alg", f"'{server.url}', alg"))
        rig.watch.fetch_too(rig.read())
        await eventually(lambda: any(server.url in texts for texts in rig.fetched), "its keys")
        assert len(rig.watch.key_sets.sets) == 2
        rig.watch.use(Credentials.none())
        assert len(rig.watch.key_sets.sets) == 0
    finally:
        await server.down()
