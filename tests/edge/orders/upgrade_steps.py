"""Handshakes and their answers, and what must hold of an upgrade."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.observe.events import CLIENT_GONE

from .play import (
    Play,
    after,
)

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


DECLINED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nsorry"
DECLINED_AS_SENT = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry"


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
