"""Every order of events around an upgrade: no byte is lost, doubled or out of place, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.tunnels.relay.poller import Poller

from .play import Backend, Play, Scene, after, connect, send, try_every
from .worker import Worker

pytestmark = pytest.mark.either_build

REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
HEAD_END = b"\r\n\r\n"
AHEAD = b"\x81\x85\1\2\3\4" + b"i" * 5
EARLY = b"\x81\x03srv"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def opened(from_client: bytes = b"", from_backend: bytes = b"") -> object:
    """Check that a tunnel was opened, and that each peer got all that the other one sent."""

    def check(play: Play) -> None:
        assert play.line("handshake")["result"] == "upgraded"
        assert play.client.received == ANSWER + from_backend
        head, _, behind = play.backends[0].received.partition(HEAD_END)
        assert head.startswith(b"GET /chat HTTP/1.1\r\n")
        assert behind == from_client

    return check


def test_bytes_that_both_send_ahead(worker: Worker) -> None:
    scene = Scene(
        [connect(REQUEST), send(AHEAD), send(AHEAD)],
        [Backend([send(ANSWER, after(HEAD_END)), send(EARLY)])],
        opened(2 * AHEAD, EARLY),
    )
    assert try_every(worker, scene) > 20


def test_this_sees_what_a_poller_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was received in a turn, for a reader that is let go before it gets that."""
    let_go = Poller.let_go

    def forgetful(poller: Poller, fd: int) -> None:
        let_go(poller, fd)

    monkeypatch.setattr(Poller, "let_go", forgetful)
    with Worker() as worker, pytest.raises(AssertionError):
        test_bytes_that_both_send_ahead(worker)
