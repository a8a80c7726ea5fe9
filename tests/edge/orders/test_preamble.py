"""Every order of events around a PROXY header: the client is named, or the connection ends and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest

from tests.protocol.proxy import v1, v2

from .choices import Choices, cuts
from .exchange_steps import ANSWER_1, ANSWER_2, GET_1, GET_2, answers, got
from .play import Actor, Backend, Play, Scene, Step, close, connect, fin, passes, pieces, reset, send, try_every
from .test_faults import Faulty
from .upgrade_steps import ASKED, EARLY, RAW, RAW_ANSWER
from .worker import Worker

pytestmark = pytest.mark.either_build

HEADER = v1("203.0.113.7", "192.0.2.1")
BINARY = v2("2001:db8::7", "2001:db8::1")
NAMED = {HEADER: "203.0.113.7:51000", BINARY: "[2001:db8::7]:51000"}
HTTP_400 = b"HTTP/1.1 400 Bad Request\r\n"


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker that requires headers of all its clients."""
    with Worker() as worker:
        worker._settings = worker._settings._replace(trusted_proxies=(ip_network("127.0.0.1"),))
        worker.listener.use(worker.edge.entrance(worker._settings.listen[0]._replace(proxy_protocol=True)))
        worker.edge._preambles.complain = lambda *words: None  # warnings are trouble to a play
        yield worker


def named(header: bytes, *expected: bytes) -> Callable[[Play], None]:
    """The client got these answers, and is called what the header says."""

    def check(play: Play) -> None:
        got(*expected)(play)
        assert {line["client"] for line in play.lines} == {NAMED[header]}
        host = NAMED[header].rpartition(":")[0].strip("[]").encode()
        assert all(b"X-Forwarded-For: " + host + b"\r\n" in backend.received for backend in play.backends)

    return check


def closed(result: str | None, *reasons: str) -> Callable[[Play], None]:
    """The client got nothing; there is one line with this result, or none."""

    def check(play: Play) -> None:
        assert play.client.received == b""
        found = [(line["result"], line["status"], line["client"].rpartition(":")[0]) for line in play.lines]
        assert found == ([] if result is None else [(result, None, "127.0.0.1")])
        assert not reasons or play.lines[0]["reason"] in reasons

    return check


@pytest.mark.parametrize("header", [HEADER, BINARY])
def test_a_header_cut_anywhere(worker: Worker, header: bytes) -> None:
    data = header + GET_1 + GET_2
    for cut in cuts(len(header) + 4):
        scene = Scene(
            [connect(data[: cut // 2]), *pieces(data[cut // 2 :], cut - cut // 2)],
            [Backend(answers(2))],
            named(header, ANSWER_1, ANSWER_2),
        )
        assert try_every(worker, scene)


def test_a_tunnel_behind_it(worker: Worker) -> None:
    for cut in cuts(len(HEADER) + 2, 5):
        scene = Scene(
            [connect(), *pieces(HEADER + RAW, cut)],
            [Backend([send(RAW_ANSWER + EARLY, ASKED), fin()])],
            lambda play: None,
            midst=1,
        )
        assert try_every(worker, scene)


@pytest.mark.parametrize("end", [fin, close, reset])
def test_it_breaks_off(worker: Worker, end: Callable[[], Step]) -> None:
    """In the midst of a turn, too. What came of a reset connection may be lost, and then there is no line."""

    def check(play: Play) -> None:
        assert play.client.received == b""
        assert [line["result"] for line in play.lines] in ([], ["bad_request"])
        assert play.lines or end is not fin

    for header in (HEADER, BINARY):
        for cut in (1, 6, 15, len(header) - 1):
            scene = Scene([connect(), *pieces(header[:cut], cut // 2), end()], check=check, midst=2)
            assert try_every(worker, scene, most=2000)


@pytest.mark.parametrize("end", [fin, close, reset])
def test_nothing_comes(worker: Worker, end: Callable[[], Step]) -> None:
    assert try_every(worker, Scene([connect(), end()], check=closed(None), midst=1))


@pytest.mark.parametrize("data", [b"", HEADER[:10]])
def test_it_comes_late(worker: Worker, data: bytes) -> None:
    def over(play: Play, actor: Actor) -> bool:
        return bool(play.client.done == len(play.client.steps)) and not play.worker.is_busy

    scene = Scene(
        [connect(data)],
        check=closed("timeout" if data else None),
        others={"clock": [passes(11, over)]},
    )
    assert try_every(worker, scene)


@pytest.mark.parametrize("data", [GET_1, RAW, b"\r\n\r\n" + GET_1])
def test_http_without_it(worker: Worker, data: bytes) -> None:
    def check(play: Play) -> None:
        assert play.client.received.startswith(HTTP_400)
        assert play.client.ended == "fin"
        assert [(line["event"], line["result"], line["status"]) for line in play.lines] == [
            ("handshake", "bad_request", 400)
        ]

    for cut in range(1, 8):
        assert try_every(worker, Scene([connect(), *pieces(data, cut)], check=check))


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01", b"PROXY TCP4 nonsense\r\n" + GET_1, BINARY.replace(b"\x21\x21", b"\x31\x21") + GET_1]
)
def test_what_is_no_header(worker: Worker, data: bytes) -> None:
    for cut in cuts(len(data), 6):
        assert try_every(worker, Scene([connect(), *pieces(data, cut)], check=closed("bad_request")))


def test_the_gateway_exits(worker: Worker) -> None:
    """Those that have not begun are closed at once if they are not quite new, others when their time is up."""

    def check(play: Play) -> None:
        assert play.client.ended
        assert not play.client.received or play.client.received.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 "))

    def connected(play: Play, actor: Actor) -> bool:
        return play.client.done > 0 and not play.worker.is_busy

    def drain(play: Play, actor: Actor) -> None:
        play.worker.edge.config.draining = True
        play.worker.edge.close_idle()

    def shut_down(play: Play, actor: Actor) -> None:
        for connection in play.worker.edge._connections():
            connection.shut_down()

    scene = Scene(
        [connect(), *pieces(HEADER + GET_1, 20)],
        [Backend(answers(1))],
        check,
        others={
            "operator": [
                passes(2, connected),
                Step("drains", drain),
                Step("shuts down", shut_down, connected),
                passes(2, connected),
                Step("drains", drain, connected),
            ]
        },
    )
    assert try_every(worker, scene)


@pytest.mark.parametrize("data", [HEADER + GET_1, GET_1, b"\x16\x03", HEADER[:20]])
def test_any_call_raises(worker: Worker, data: bytes) -> None:
    """The connection ends, and nothing is left behind."""

    class Any(Faulty):
        def _no_trouble(self) -> None:
            assert not self.worker.kernel.mistakes or self.raised.startswith("unwatch")
            raised = [record for record in self.worker.failures.records if record.exc_info]
            assert bool(raised) == bool(self.raised)
            self.worker.kernel.mistakes.clear()

    at, calls = 0, 1
    while at <= calls:
        scene = Scene([connect(), *pieces(data, 2), fin()], [Backend(answers(1))])
        play = Any(worker, scene, Choices([]))
        play.at = at
        worker.failed_callbacks = 0
        play.run()
        worker.failures.records.clear()
        calls = play.calls
        at += 1
    assert at > 4
