"""Backends that are found while the gateway runs: what is kept, what changes, what is sent to workers."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.admin.state import DrainState, GatewayState
from gateway.config import Config
from gateway.config.address import parse_backend
from gateway.config.settings_balancing import Backend
from gateway.processes import asking, discovering
from gateway.processes.asking import ask
from gateway.processes.control.messages import DrainBackends, UseBackends
from gateway.processes.discovering import Discovering
from gateway.processes.numbering import Numbering
from gateway.processes.resolving import Resolving
from gateway.processes.sources import Before, Found, NotFound, Source, from_plain, sources_of, to_plain
from gateway.processes.workers import Workers
from gateway.routing.registry import Registry, Vacancies
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table

from ..routing.tables import config_of as of_routes
from ..support.deadline import eventually, turn, within
from ..support.dns_server import DnsServer


def backend(address: str, weight: int = 1, backup: bool = False) -> Backend:
    return Backend(parse_backend(address), weight, None, backup, False)


def config_of(*listed: str, **discover: Any) -> Config:
    upstream: dict[str, Any] = {"discover": discover or {"dns": "chat.internal:1"}}
    if listed:
        upstream["backends"] = list(listed)
    return of_routes([{}], {"chat": upstream})


class Scene:
    """A supervisor's discovery, with name servers whose answers a test sets, and no workers."""

    def __init__(self, config: Config, max_backends: int = 9) -> None:
        registry = Registry(9, max_backends)
        registry.admit(config)
        self.table = Table.create(1, 4)
        self.state = GatewayState(self.table, registry, config, "gateway.yaml", 4)
        self.workers: Any = SimpleNamespace(
            state=self.state, config=config, send_to_all=lambda each: self.sent.append(each), on_change=lambda: None
        )
        self.workers.backends_of = lambda *arguments: Workers.backends_of(self.workers, *arguments)
        self.sent: list[Any] = []
        self.answers: dict[str, list[Backend] | str] = {}
        self.mistakes: dict[str, str] = {}
        self.asked: defaultdict[str, int] = defaultdict(int)
        self.resolving = Resolving(lambda names: None, look_up=lambda name: ("127.0.0.1",))
        self.discovering = self.of_a_supervisor()

    def of_a_supervisor(self, before: Any = None) -> Discovering:
        return Discovering(self.workers, self.resolving, before, self.question)

    async def question(self, source: Source, before: Before) -> Found:
        self.asked[source.name] += 1
        answer = self.answers.get(source.name, "no answer")
        if isinstance(answer, str):
            raise NotFound(answer)
        return Found(tuple(answer), 0, self.mistakes.get(source.name))

    async def start(self) -> None:
        self.discovering.use(self.workers.config)
        await self.discovering.first_answers(5)

    def addresses(self) -> list[str]:
        return [str(each.address) for each in self.state.backends_of(self.state.config, "chat")]

    async def are(self, *addresses: str) -> None:
        await eventually(lambda: self.addresses() == list(addresses), f"backends {addresses}")


@pytest.fixture
async def scenes() -> AsyncIterator[Any]:
    made: list[Scene] = []

    def make(*arguments: Any, **options: Any) -> Scene:
        made.append(Scene(*arguments, **options))
        return made[-1]

    yield make
    for scene in made:
        scene.discovering.close()
        scene.resolving.close()
        scene.table.close()


async def test_answers_are_in_force_and_what_vanishes_drains(scenes):
    scene = scenes(config_of("b:9"))
    scene.answers["chat.internal"] = [backend("10.0.0.1:1"), backend("10.0.0.2:1", 3), backend("b:9", 7)]
    await scene.start()
    assert scene.addresses() == ["b:9", "10.0.0.1:1", "10.0.0.2:1"]  # one that is listed is as it is listed
    (message,) = scene.sent
    assert [each.weight for each in message.upstreams["chat"]] == [1, 1, 3]
    registry = scene.state.registry
    gone = registry.backend("chat", "10.0.0.1:1")
    row = Slice(scene.table, 0).allocate(0, gone)

    scene.sent.clear()
    scene.answers["chat.internal"] = [backend("10.0.0.2:1", 3)]
    await scene.are("b:9", "10.0.0.2:1")
    use, drain = scene.sent
    assert isinstance(use, UseBackends)
    assert use.drained_backends == {gone}
    assert drain == DrainBackends(frozenset((gone,)), 30, 1012)
    assert scene.state.drained_backends[gone].tunnels == 1

    scene.sent.clear()
    scene.answers["chat.internal"] = "SERVFAIL"
    asked = scene.asked["chat.internal"]
    await eventually(lambda: scene.asked["chat.internal"] > asked, "a question")
    assert scene.addresses() == ["b:9", "10.0.0.2:1"]
    scene.answers["chat.internal"] = [backend("10.0.0.1:1")]
    await scene.are("b:9", "10.0.0.1:1")  # back: in service again
    use, drain = scene.sent
    assert use.drained_backends == {registry.backend("chat", "10.0.0.2:1")} == drain.backends
    Slice(scene.table, 0).release(row)


async def test_failures_are_logged_once_and_counted(scenes, caplog):
    scene = scenes(config_of())
    await scene.start()
    await eventually(lambda: scene.state.discovery_errors["chat"] >= 2, "two failures")
    assert scene.addresses() == []
    assert scene.state.discoveries["chat"].error == "no answer"
    scene.answers["chat.internal"] = [backend("10.0.0.1:1")]
    await scene.are("10.0.0.1:1")
    assert scene.state.discoveries["chat"].error is None
    scene.answers["chat.internal"] = "gone"
    before = scene.state.discovery_errors["chat"]
    await eventually(lambda: scene.state.discovery_errors["chat"] > before, "a failure")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "discovery: upstream chat: dns chat.internal:1: no answer; there are none from before, and requests get 503"
        " unless others are configured",
        "discovery: upstream chat: dns chat.internal:1: gone; its last answer stays in use: 1 backend",
    ]


async def test_a_drain_that_was_asked_for_outlives_a_name_that_comes_and_goes(scenes):
    scene = scenes(config_of())
    scene.answers["chat.internal"] = [backend("10.0.0.1:1"), backend("10.0.0.2:1")]
    await scene.start()
    number = scene.state.registry.backend("chat", "10.0.0.1:1")
    scene.state.drained_backends = {number: DrainState(30, 0)}
    scene.answers["chat.internal"] = [backend("10.0.0.2:1")]
    await scene.are("10.0.0.2:1")
    assert not any(isinstance(message, DrainBackends) for message in scene.sent)
    scene.answers["chat.internal"] = [backend("10.0.0.1:1"), backend("10.0.0.2:1")]
    await scene.are("10.0.0.1:1", "10.0.0.2:1")
    assert number in scene.state.drained_backends


async def test_nothing_is_sent_during_a_reload_and_all_after_it(scenes):
    scene = scenes(config_of())
    scene.answers["chat.internal"] = [backend("10.0.0.1:1")]
    await scene.start()
    scene.sent.clear()
    new = config_of(srv="_chat.internal")
    scene.answers["_chat.internal"] = [backend("10.0.0.3:1")]
    with scene.discovering.held():
        scene.discovering.use(scene.workers.config, new)
        await scene.discovering.first_answers(5)
        assert scene.discovering.current_of(new) == {"chat": (backend("10.0.0.3:1"),)}
        assert scene.discovering.current_of(scene.workers.config) == {"chat": (backend("10.0.0.1:1"),)}
        scene.workers.config = scene.state.config = new
        scene.discovering.use(new)
        assert scene.sent == []
    await scene.are("10.0.0.3:1")
    (message,) = scene.sent  # a reload drains nothing
    assert isinstance(message, UseBackends)
    asked = scene.asked["chat.internal"]
    asked_new = scene.asked["_chat.internal"]
    await eventually(lambda: scene.asked["_chat.internal"] > asked_new, "a question")
    assert scene.asked["chat.internal"] == asked


async def test_the_next_supervisor_starts_with_the_last_answers(scenes):
    scene = scenes(config_of())
    scene.answers["chat.internal"] = [backend("10.0.0.1:1", 2), backend("[::1]:1", backup=True)]
    await scene.start()
    left = json.loads(json.dumps(to_plain(scene.discovering.answers())))
    successor = scenes(config_of())
    successor.discovering = successor.of_a_supervisor(from_plain(left))
    await successor.start()
    assert successor.addresses() == ["10.0.0.1:1", "[::1]:1"]
    assert successor.state.discovered == scene.state.discovered
    with pytest.raises(ValueError, match="not a list"):
        from_plain({"a": 1})


async def test_more_backends_than_there_are_numbers(scenes, caplog):
    scene = scenes(config_of("b:9"), max_backends=3)
    scene.answers["chat.internal"] = [backend(f"10.0.0.{n}:1") for n in range(1, 6)]
    await scene.start()
    assert scene.addresses() == ["b:9", "10.0.0.1:1", "10.0.0.2:1"]
    assert "more than 3 backends" in caplog.text


async def test_a_thousand_changes_use_few_numbers(scenes):
    """A number rests, then it belongs to another backend, whose cells begin at zero."""
    scene = scenes(config_of("b:9"), max_backends=6)
    numbering = Numbering(scene.state, scene.discovering.keys, Vacancies(60))
    scene.discovering.use(scene.workers.config)
    (source,) = sources_of(scene.workers.config).values()
    known = scene.discovering._known[source]
    for change in range(1000):
        address = f"10.1.{change // 250}.{change % 250}:1"
        scene.discovering._answered(source, known, (backend(address),))
        scene.discovering._apply()
        number = scene.state.registry.backend("chat", address)
        assert scene.table.is_up(number)
        Slice(scene.table, 0).note_connect(number, False, 7)
        numbering.look(30.0 * change)
    assert scene.state.registry.sizes()[1] <= 6
    assert len(scene.state.drained_backends) <= 4
    for seconds in (40_000, 40_060, 40_120):
        numbering.look(seconds)
    assert len(scene.state.registry.addresses()) == 2
    assert scene.state.drained_backends == {}


async def test_a_number_is_not_free_while_a_tunnel_has_it(scenes):
    scene = scenes(config_of("b:9"))
    registry = scene.state.registry
    registry.admit_backends([("chat", "10.0.0.1:1")])
    slice_ = Slice(scene.table, 0)
    row = slice_.allocate(0, 1)
    numbering = Numbering(scene.state, scene.discovering.keys, Vacancies(60))
    for seconds in range(0, 1000, 60):
        numbering.look(seconds)
    assert registry.backends[1] == ("chat", "10.0.0.1:1")
    slice_.release(row)
    numbering.look(1000)
    numbering.look(1059)
    assert registry.addresses() == ["b:9", "10.0.0.1:1"]
    numbering.look(1060)
    assert registry.addresses() == ["b:9"]


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def names() -> AsyncIterator[DnsServer]:
    server = await DnsServer.start()
    yield server
    server.down()


def source(names: DnsServer, kind: Any = "dns", name: str = "chat.internal") -> Source:
    return Source(kind, name, 9 if kind == "dns" else 0, 10, parse_backend(names.address))


async def test_addresses_of_both_kinds(names):
    names.records = {("chat.internal", "A"): ["10.0.0.2", "10.0.0.1"], ("chat.internal", "AAAA"): ["2001:DB8::1"]}
    names.ttl = 7
    found = await within(ask(source(names), Before()), "an answer")
    assert found == ((backend("10.0.0.1:9"), backend("10.0.0.2:9"), backend("[2001:db8::1]:9")), 7, None)


async def test_a_name_that_has_no_address(names):
    names.records = {("chat.internal", "TXT"): ["x"]}
    with pytest.raises(NotFound, match="the answer has no addresses"):
        await ask(source(names), Before())
    with pytest.raises(NotFound, match="does not exist"):
        await ask(source(names, name="none.internal"), Before())
    names.failing = True
    with pytest.raises(NotFound, match="SERVFAIL"):
        await ask(source(names), Before())
    names.down()
    with pytest.raises(NotFound):
        await ask(source(names), Before())


@pytest.fixture
def failing(names: DnsServer, monkeypatch: pytest.MonkeyPatch) -> set[tuple[bytes, bytes]]:
    """First labels of names and types of records that the name server has no answer for."""
    found: set[tuple[bytes, bytes]] = set()
    answer = names.datagram_received

    def some(data: bytes, address: tuple[str, int]) -> None:
        names.failing = any(data[13:].startswith(label) and kind + b"\0\x01" in data for label, kind in found)
        answer(data, address)

    monkeypatch.setattr(names, "datagram_received", some)
    return found


A, AAAA, SRV = b"\0\x01", b"\0\x1c", b"\0\x21"


def addresses(found: Found) -> list[str]:
    return [str(each.address) for each in found.backends]


async def test_a_type_of_record_that_cannot_be_asked_for_stays_as_it_was(names, failing):
    """Backends with IPv6 addresses may still be there. Those with IPv4 addresses change meanwhile, for years maybe."""
    names.records = {("chat.internal", "A"): ["10.0.0.1"], ("chat.internal", "AAAA"): ["::1"]}
    failing.add((b"chat", AAAA))
    before = Before()
    found = await ask(source(names), before)
    assert addresses(found) == ["10.0.0.1:9"]
    assert "SERVFAIL" in (found.mistake or "")
    failing.clear()
    assert addresses(await ask(source(names), before)) == ["10.0.0.1:9", "[::1]:9"]
    failing.add((b"chat", AAAA))
    names.records["chat.internal", "A"] = ["10.0.0.2"]
    assert addresses(await ask(source(names), before)) == ["10.0.0.2:9", "[::1]:9"]
    of_a_previous_supervisor = Before((backend("10.0.0.1:9"), backend("[::1]:9")))
    assert addresses(await ask(source(names), of_a_previous_supervisor)) == ["10.0.0.2:9", "[::1]:9"]
    failing.clear()
    del names.records["chat.internal", "AAAA"]
    found = await ask(source(names), before)
    assert (addresses(found), found.mistake) == (["10.0.0.2:9"], None)


async def test_a_type_of_record_without_any_answer_delays_no_other(names, monkeypatch):
    monkeypatch.setattr(asking, "TRY_SECONDS", 0.5)
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(asking, "GRACE_SECONDS", 0.05)
    names.records = {("chat.internal", "A"): ["10.0.0.1"], ("chat.internal", "AAAA"): ["::1"]}
    before = Before()
    assert addresses(await ask(source(names), before)) == ["10.0.0.1:9", "[::1]:9"]
    answer, dropped = names.datagram_received, [AAAA]

    def some(data: bytes, address: tuple[str, int]) -> None:
        if not any(kind + b"\0\x01" in data for kind in dropped):
            answer(data, address)

    monkeypatch.setattr(names, "datagram_received", some)
    names.records["chat.internal", "A"] = ["10.0.0.2"]
    found = await ask(source(names), before)
    assert (addresses(found), found.mistake) == (["10.0.0.2:9", "[::1]:9"], None)
    (question,) = before.asked.values()
    assert not question.done(), "it was waited for"
    # It is reported once it has failed, and as long as it fails.
    await within(asyncio.wait([question]), "the end of the question")
    for _ in range(2):
        found = await ask(source(names), before)
        assert addresses(found) == ["10.0.0.2:9", "[::1]:9"]
        assert "lifetime expired" in str(found.mistake)
    assert not before.came.is_set()
    # An answer that comes late is used then.
    names.records["chat.internal", "AAAA"] = ["::2"]
    dropped.clear()
    await within(before.came.wait(), "the answer")
    found = await ask(source(names), before)
    assert (addresses(found), found.mistake) == (["10.0.0.2:9", "[::2]:9"], None)
    # The other way round; and nothing is left behind.
    dropped.append(A)
    names.records["chat.internal", "AAAA"] = ["::3"]
    assert addresses(await ask(source(names), before)) == ["10.0.0.2:9", "[::3]:9"]
    (question,) = before.asked.values()
    before.close()
    await asyncio.wait([question])
    assert question.cancelled()


async def test_an_answer_that_comes_late_is_asked_about_at_once(scenes, monkeypatch):
    monkeypatch.setattr(discovering, "LEAST_SECONDS", 0.01)
    scene = scenes(config_of(dns="chat.internal:1", every="1h"))
    asked = asyncio.Queue()

    async def question(source: Source, before: Before) -> Found:
        asked.put_nowait(before)
        return Found((backend("10.0.0.1:1"),), 3600)

    scene.discovering._question = question
    scene.discovering.use(scene.workers.config)
    for _ in range(3):
        before = await within(asked.get(), "a question")
        await turn()
        before.came.set()


async def test_a_target_that_cannot_be_looked_up_stays_as_it_was(names, failing):
    names.records = {
        ("_chat.internal", "SRV"): ["1 1 1 a.internal.", "1 1 2 b.internal."],
        ("a.internal", "A"): ["10.0.0.1"],
        ("b.internal", "A"): ["10.0.0.2"],
    }
    services, before = source(names, "srv", "_chat.internal"), Before()
    assert addresses(await ask(services, before)) == ["10.0.0.1:1", "10.0.0.2:2"]
    failing.update({(b"a", A), (b"a", AAAA)})
    names.records["b.internal", "A"] = ["10.0.0.3"]
    found = await ask(services, before)
    assert addresses(found) == ["10.0.0.1:1", "10.0.0.3:2"]
    assert "SERVFAIL" in (found.mistake or "")
    names.records["_chat.internal", "SRV"] = ["1 1 2 b.internal."]
    assert addresses(await ask(services, before)) == ["10.0.0.3:2"]
    assert {name for name, _ in before.addresses} == {"b.internal"}


async def test_a_part_of_an_answer_is_used_and_its_failure_shown(scenes, caplog):
    caplog.set_level("INFO", "gateway")
    scene = scenes(config_of())
    scene.answers["chat.internal"] = [backend("10.0.0.1:1")]
    await scene.start()
    scene.mistakes["chat.internal"] = "no AAAA"
    scene.answers["chat.internal"] = [backend("10.0.0.2:1")]
    await scene.are("10.0.0.2:1")
    assert scene.state.discoveries["chat"].error == "no AAAA"
    assert scene.state.discovery_errors["chat"] >= 1
    asked = scene.asked["chat.internal"]
    await eventually(lambda: scene.asked["chat.internal"] > asked + 1, "two questions")
    assert caplog.text.count("no AAAA") == 1
    scene.mistakes.clear()
    await eventually(lambda: scene.state.discoveries["chat"].error is None, "a whole answer")
    assert caplog.text.count("can be used again") == 1


async def test_services(names):
    names.records = {
        ("_chat.internal", "SRV"): [
            "5 0 1 a.internal.",
            "5 30 2 A.internal.",
            "9 1 3 b.internal.",
            "1 1 4 none.internal.",
            "0 0 0 .",
        ],
        ("a.internal", "A"): ["10.0.0.1"],
        ("b.internal", "AAAA"): ["::1"],
    }
    found = await within(ask(source(names, "srv", "_chat.internal"), Before()), "an answer")
    assert found.backends == (backend("10.0.0.1:1"), backend("10.0.0.1:2", 30), backend("[::1]:3", backup=True))
