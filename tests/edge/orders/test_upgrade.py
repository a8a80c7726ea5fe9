"""Every order of events around an upgrade: no byte is lost, doubled or out of place, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gateway.edge.client import MAX_AHEAD_BYTES
from gateway.observe.events import CLIENT_GONE
from gateway.tunnels.relay.poller import Poller

from .play import (
    LATER,
    Backend,
    Play,
    Scene,
    Step,
    accept,
    after,
    close,
    connect,
    fin,
    passes,
    pieces,
    refuse,
    reset,
    send,
    take,
    try_every,
)
from .worker import Worker

pytestmark = pytest.mark.either_build

RAW = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
RAW_ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
WEBSOCKET = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
WEBSOCKET_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
HEAD_END = b"\r\n\r\n"
AHEAD = b"\x81\x85\1\2\3\4" + b"i" * 5
EARLY = b"\x81\x03srv"
CLOSE_FRAME = 0x88
Check = Callable[[Play], None]
ASKED = after(HEAD_END)
BOTH = pytest.mark.parametrize(
    ("request_", "answer"), [(RAW, RAW_ANSWER), (WEBSOCKET, WEBSOCKET_ANSWER)], ids=["raw", "websocket"]
)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


# --- what must hold ---------------------------------------------------------------------------------------------------


def behind_head(data: bytes) -> bytes:
    """What a backend got behind the request's head."""
    head, end, behind = data.partition(HEAD_END)
    assert not data or head.startswith(b"GET /chat HTTP/1.1\r\n"), data
    assert end or not behind
    return behind


def begins(got: bytes, sent: bytes) -> bool:
    """Whether a peer got the beginning of what the other one sent, and at most a Close frame behind that."""
    same = next((at for at, (a, b) in enumerate(zip(got, sent, strict=False)) if a != b), min(len(got), len(sent)))
    return same == len(got) or got[same] == CLOSE_FRAME


def opened(answer: bytes, from_client: bytes = b"", from_backend: bytes = b"") -> Check:
    """A tunnel was opened, and each peer got all that the other one sent."""

    def check(play: Play) -> None:
        assert play.line("handshake")["result"] == "upgraded"
        whole = answer + from_backend
        assert play.client.received[: len(whole)] == whole
        rest = play.client.received[len(whole) :]
        assert not rest or rest[0] == CLOSE_FRAME  # when the backend has vanished
        assert behind_head(play.backends[-1].received)[: len(from_client)] == from_client
        rest = behind_head(play.backends[-1].received)[len(from_client) :]
        assert not rest or rest[0] == CLOSE_FRAME

    return check


def nothing_wrong(answer: bytes, from_client: bytes, from_backend: bytes) -> Check:
    """What a peer got is how the other one's stream began."""

    def check(play: Play) -> None:
        result = play.line("handshake")["result"]
        for backend in play.backends:
            behind = behind_head(backend.received)
            if result != "upgraded":
                assert not behind
            assert begins(behind, from_client)
        got = play.client.received
        if got.startswith(b"HTTP/1.1 101"):
            assert begins(got, answer + from_backend)
        elif got:
            assert result not in ("upgraded", CLIENT_GONE)

    return check


def refused(status: int, result: str) -> Check:
    """The gateway answered for itself, and no backend got a byte of what the client sent ahead."""

    def check(play: Play) -> None:
        assert play.line("handshake")["result"] == result
        assert play.client.received.startswith(b"HTTP/1.1 %d " % status)
        assert play.client.received.count(b"HTTP/1.1 ") == 1
        assert play.client.ended == "fin"
        for backend in play.backends:
            assert not behind_head(backend.received)
            assert backend.ended or backend.peer.gone

    return check


# --- bytes that come early --------------------------------------------------------------------------------------------


@BOTH
def test_bytes_that_both_send_ahead(worker: Worker, request_: bytes, answer: bytes) -> None:
    scene = Scene(
        [connect(request_), send(AHEAD), send(AHEAD)],
        [Backend([send(answer, ASKED), send(EARLY)])],
        opened(answer, 2 * AHEAD, EARLY),
    )
    assert try_every(worker, scene) > 20


def test_this_sees_what_a_poller_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was received in a turn, for a reader that is let go before it gets that."""
    let_go = Poller.let_go

    def forgetful(poller: Poller, fd: int) -> None:
        let_go(poller, fd)

    monkeypatch.setattr(Poller, "let_go", forgetful)
    with Worker() as worker, pytest.raises(AssertionError):
        test_bytes_that_both_send_ahead(worker, RAW, RAW_ANSWER)


@BOTH
def test_in_the_midst_of_turns(worker: Worker, request_: bytes, answer: bytes) -> None:
    """A peer sends between two system calls of the gateway's."""
    scene = Scene(
        [connect(request_), send(AHEAD), send(AHEAD)],
        [Backend([send(answer, ASKED), send(EARLY)])],
        opened(answer, 2 * AHEAD, EARLY),
        midst=2,
    )
    assert try_every(worker, scene) > 500


@BOTH
@pytest.mark.parametrize("is_known", [False, True])
def test_an_answer_cut_anywhere(worker: Worker, request_: bytes, answer: bytes, is_known: bool) -> None:
    for cut in range(1, len(answer) + len(EARLY), 1 if not is_known else 7):
        scene = Scene(
            [connect(request_), send(AHEAD)],
            [Backend(pieces(answer + EARLY, cut, when=ASKED))],
            opened(answer, AHEAD, EARLY),
            forget=not is_known,
        )
        try_every(worker, scene)


@BOTH
def test_a_request_cut_anywhere(worker: Worker, request_: bytes, answer: bytes) -> None:
    for cut in range(1, len(request_) + len(AHEAD), 3):
        first, *rest = pieces(request_ + AHEAD, cut)
        scene = Scene(
            [connect(), first, *rest],
            [Backend([send(answer, ASKED), send(EARLY)])],
            opened(answer, AHEAD, EARLY),
        )
        try_every(worker, scene)


def test_interim_answers(worker: Worker) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    for cut in range(1, len(interim) + len(RAW_ANSWER), 5):
        scene = Scene(
            [connect(RAW), send(AHEAD)],
            [Backend(pieces(interim + RAW_ANSWER + EARLY, cut, when=ASKED))],
            opened(interim + RAW_ANSWER, AHEAD, EARLY),
        )
        try_every(worker, scene)


@pytest.mark.parametrize("extra", [-1, 0, 1, MAX_AHEAD_BYTES])
def test_more_ahead_than_is_kept(worker: Worker, extra: int) -> None:
    ahead = bytes(range(251)) * (MAX_AHEAD_BYTES // 251 + 1)
    ahead = (ahead * 3)[: MAX_AHEAD_BYTES + extra]
    scene = Scene(
        [connect(RAW), *pieces(ahead + AHEAD, 1000, len(ahead))],
        [Backend([send(RAW_ANSWER, ASKED), send(EARLY)])],
        opened(RAW_ANSWER, ahead + AHEAD, EARLY),
    )
    try_every(worker, scene)


# --- sockets that take only some bytes --------------------------------------------------------------------------------


@BOTH
def test_a_backend_that_takes_little(worker: Worker, request_: bytes, answer: bytes) -> None:
    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend([take(100), take(150), take(1000), send(answer, ASKED), send(EARLY)], slow=150)],
        opened(answer, AHEAD, EARLY),
    )
    assert try_every(worker, scene) > 20


@BOTH
def test_a_client_that_takes_little(worker: Worker, request_: bytes, answer: bytes) -> None:
    scene = Scene(
        [connect(request_), send(AHEAD), take(30), take(40)],
        [Backend([send(answer, ASKED), send(EARLY)])],
        opened(answer, AHEAD, EARLY),
        slow_client=50,
    )
    assert try_every(worker, scene) > 20


# --- connecting -------------------------------------------------------------------------------------------------------


@BOTH
def test_a_connection_that_stands_later(worker: Worker, request_: bytes, answer: bytes) -> None:
    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend([accept(), send(answer, ASKED), send(EARLY)], LATER)],
        opened(answer, AHEAD, EARLY),
    )
    assert try_every(worker, scene) > 5


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves_while_the_backend_is_dialled(worker: Worker, end: Callable[[], Step]) -> None:
    scene = Scene(
        [connect(RAW), send(AHEAD), end()],
        [Backend([accept(), send(RAW_ANSWER, ASKED)], LATER)],
        nothing_wrong(RAW_ANSWER, AHEAD, b""),
    )
    assert try_every(worker, scene) > 5


def test_a_backend_that_refuses_later(worker: Worker) -> None:
    scene = Scene([connect(RAW), send(AHEAD)], [Backend([refuse()], LATER)], refused(502, "connect_error"))
    assert try_every(worker, scene) > 2


def test_no_connection_in_time(worker: Worker) -> None:
    scene = Scene(
        [connect(RAW), send(AHEAD)],
        [Backend([], LATER)],
        refused(504, "timeout"),
        others={"clock": [passes(6, lambda play, actor: bool(play.backends))]},
    )
    assert try_every(worker, scene) > 2


def test_a_connection_just_before_its_deadline(worker: Worker) -> None:
    def check(play: Play) -> None:
        if play.line("handshake")["result"] == "upgraded":
            opened(RAW_ANSWER, AHEAD)(play)
        else:
            refused(504, "timeout")(play)

    scene = Scene(
        [connect(RAW), send(AHEAD)],
        [Backend([accept(), send(RAW_ANSWER, ASKED)], LATER)],
        check,
        others={"clock": [passes(6), passes(11)]},
    )
    assert try_every(worker, scene) > 5


# --- ends -------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_client_that_leaves(worker: Worker, request_: bytes, answer: bytes, end: Callable[[], Step]) -> None:
    def check(play: Play) -> None:
        nothing_wrong(answer, AHEAD, EARLY)(play)
        if play.line("handshake")["result"] == "upgraded" and end is fin:
            assert behind_head(play.backends[0].received).startswith(AHEAD)
            assert play.client.received.startswith(answer)

    scene = Scene(
        [connect(request_), send(AHEAD), end()],
        [Backend([send(answer, ASKED), send(EARLY)])],
        check,
    )
    assert try_every(worker, scene) > 10


@BOTH
@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_backend_that_leaves(worker: Worker, request_: bytes, answer: bytes, end: Callable[[], Step]) -> None:
    def check(play: Play) -> None:
        if end is reset:
            nothing_wrong(answer, AHEAD, EARLY)(play)
        else:
            assert play.line("handshake")["result"] == "upgraded"
            assert play.client.received.startswith(answer + EARLY)
        if end is fin and answer is RAW_ANSWER:  # in the other protocol the client is told, and what it says dropped
            assert behind_head(play.backends[0].received).startswith(AHEAD)

    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend([send(answer, ASKED), send(EARLY), end()])],
        check,
    )
    assert try_every(worker, scene) > 10


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_backend_that_leaves_within_its_answer(worker: Worker, end: Callable[[], Step]) -> None:
    for cut in (0, 1, 40, len(RAW_ANSWER) - 1):
        steps = [send(RAW_ANSWER[:cut], ASKED)] if cut else []
        scene = Scene(
            [connect(RAW), send(AHEAD)],
            [Backend([*steps, end()])],
            refused(502, "connect_error"),
        )
        try_every(worker, scene)


def test_no_answer_in_time(worker: Worker) -> None:
    def check(play: Play) -> None:
        if play.line("handshake")["result"] == "upgraded":
            opened(RAW_ANSWER, AHEAD, EARLY)(play)
        else:
            refused(504, "timeout")(play)

    scene = Scene(
        [connect(RAW), send(AHEAD)],
        [Backend([*pieces(RAW_ANSWER + EARLY, 20, when=ASKED)])],
        check,
        others={"clock": [passes(11, lambda play, actor: bool(play.backends))]},
    )
    assert try_every(worker, scene) > 5


# --- an answer of another kind ----------------------------------------------------------------------------------------

DECLINED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nsorry"
DECLINED_AS_SENT = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry"


def declined(play: Play) -> None:
    assert play.line("handshake")["result"] == "refused_by_backend"
    assert play.client.received == DECLINED_AS_SENT
    assert play.client.ended == "fin"
    assert not behind_head(play.backends[0].received)


@BOTH
def test_a_declined_upgrade(worker: Worker, request_: bytes, answer: bytes) -> None:
    for cut in range(1, len(DECLINED), 3):
        scene = Scene(
            [connect(request_), send(AHEAD)],
            [Backend(pieces(DECLINED, cut, when=ASKED))],
            declined,
        )
        try_every(worker, scene)


@pytest.mark.parametrize("end", [fin, close, reset])
def test_a_declined_upgrade_whose_client_leaves(worker: Worker, end: Callable[[], Step]) -> None:
    def check(play: Play) -> None:
        assert DECLINED_AS_SENT.startswith(play.client.received)
        assert not behind_head(play.backends[0].received)
        assert play.line("handshake")["result"] in ("refused_by_backend", CLIENT_GONE)

    for cut in (1, 30, len(DECLINED) - 2):
        scene = Scene(
            [connect(RAW), send(AHEAD), end()],
            [Backend(pieces(DECLINED, cut, when=ASKED))],
            check,
        )
        try_every(worker, scene)


@pytest.mark.parametrize("end", [fin, reset])
def test_a_declined_upgrade_whose_backend_leaves(worker: Worker, end: Callable[[], Step]) -> None:
    until_close = b"HTTP/1.1 403 Forbidden\r\n\r\nsorry"
    as_sent = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nsorry"

    def check(play: Play) -> None:
        got = play.client.received
        if end is fin:
            assert got == as_sent
            assert play.client.ended == "fin"
        elif not got.startswith(b"HTTP/1.1 502"):
            assert as_sent.startswith(got)
            assert play.client.ended == "reset"  # it must not look whole

    for cut in (1, 30, len(until_close) - 2):
        scene = Scene(
            [connect(RAW), send(AHEAD)],
            [Backend([*pieces(until_close, cut, when=ASKED), end()])],
            check,
        )
        try_every(worker, scene)


def test_a_declined_upgrade_whose_client_takes_little(worker: Worker) -> None:
    scene = Scene(
        [connect(RAW), send(AHEAD), take(30), take(40), take(1000)],
        [Backend(pieces(DECLINED, 50, when=ASKED))],
        declined,
        slow_client=50,
    )
    assert try_every(worker, scene) > 20


# --- draining ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("of_backend", [False, True])
def test_a_drain_in_between(worker: Worker, request_: bytes, answer: bytes, of_backend: bool) -> None:
    def drain(play: Play, actor: object) -> None:
        if of_backend:
            play.worker.edge.drain_backends(frozenset((play.worker.number_of_backend,)), 60, 1012)
        else:
            play.worker.edge.drain(60, 1012)

    def check(play: Play) -> None:
        if play.line("handshake")["result"] != "upgraded":
            refused(503, "unavailable")(play)
            return
        sent, drained = play.trace.index(f"client sends {len(AHEAD)} bytes"), play.trace.index("operator drains")
        if "turn" in play.trace[sent:drained]:
            opened(answer, AHEAD, EARLY)(play)
        else:
            nothing_wrong(answer, AHEAD, EARLY)(play)  # the tunnel was closed before that was read

    scene = Scene(
        [connect(request_), send(AHEAD)],
        [Backend(pieces(answer + EARLY, 20, when=ASKED))],
        check,
        others={"operator": [Step("drains", drain)]},
    )
    assert try_every(worker, scene) > 20
