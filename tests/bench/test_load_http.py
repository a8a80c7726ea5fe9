"""The benchmark's plain HTTP load: what it takes for a right answer, and that a wrong one ends the measurement."""

import asyncio
from pathlib import Path

import pytest

from bench.errors import BenchError
from tests.bench.relaying import measure, relay

KINDS = ["get", "varied", "download", "chunked", "upload"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_backend_answers_every_kind_of_request_as_the_client_expects(
    program: Path, backend: int, kind: str
) -> None:
    result = measure(program, "http", backend, 4, kind, 0.01, 0.05)
    assert result["count"] >= 4
    assert 0 < result["p50_us"] <= result["p99_us"]


def test_each_event_stream_gets_one_event_a_round(program: Path, backend: int) -> None:
    result = measure(program, "events", backend, 50, backend, 0, 0)
    assert result["count"] == 50


@pytest.mark.parametrize("kind", ["get", "varied"])
async def test_requests_and_answers_may_come_byte_by_byte(program: Path, backend: int, kind: str) -> None:
    async with relay(backend, piece_bytes=1) as port:
        result = await asyncio.to_thread(measure, program, "http", port, 2, kind, 0, 0.01)
    assert result["count"] >= 2


async def test_chunks_and_events_may_come_in_pieces(program: Path, backend: int) -> None:
    async with relay(backend, piece_bytes=7) as port:
        result = await asyncio.to_thread(measure, program, "events", port, 5, backend, 0, 0.05)
        assert result["count"] >= 5
    async with relay(backend, piece_bytes=8191) as port:
        result = await asyncio.to_thread(measure, program, "http", port, 1, "chunked", 0, 0.05)
        assert result["count"] >= 1


async def test_a_connection_whose_close_is_announced_is_opened_again(program: Path, backend: int) -> None:
    opened: list[str] = []

    def announce(received: bytes) -> bytes:
        return received.replace(b"\r\nDate:", b"\r\nConnection: close\r\nDate:")

    async with relay(backend, answer=announce, opened=opened) as port:
        result = await asyncio.to_thread(measure, program, "http", port, 1, "get", 0, 0.05)
    assert result["count"] >= 2
    assert len(opened) == result["count"] + 1  # one more for the warm-up


@pytest.mark.parametrize(
    ("kind", "old", "new", "complaint"),
    [
        ("get", b"200 OK", b"204 OK", "not a 200"),
        ("get", b"octet-stream", b"octet-strea", "another Content-Type"),
        ("get", b"Content-Length: 50", b"Content-Length: 49", "another framing"),
        ("get", b"Content-Length: 50", b"Transfer-Encoding: chunked", "another framing"),
        ("get", b"Date:", b"Date2:", "no Date"),
        ("get", b"Server:", b"Served:", "no Server"),
        ("varied", b'ETag: "', b'ETag: W/"', "another ETag"),
        ("chunked", b"\r\n4000\r\n", b"\r\n3fff\r\n", "longer than its size"),
        ("chunked", b"\r\n0\r\n\r\n", b"\r\n0\r\nA: b\r\n\r\n", "trailers"),
    ],
)
async def test_an_answer_with_another_head_or_framing_ends_the_measurement(
    program: Path, backend: int, kind: str, old: bytes, new: bytes, complaint: str
) -> None:
    async with relay(backend, answer=lambda received: received.replace(old, new)) as port:
        with pytest.raises(BenchError, match=complaint):
            await asyncio.to_thread(measure, program, "http", port, 1, kind, 0, 0.05)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_damaged_byte_of_an_answer_ends_the_measurement(program: Path, backend: int, kind: str) -> None:
    def damage(received: bytes) -> bytes:
        head, found, body = received.partition(b"\r\n\r\n")
        if not found or not head.startswith(b"HTTP") or len(body) < 40:
            return received
        return head + found + body[:30] + bytes([body[30] ^ 1]) + body[31:]

    async with relay(backend, answer=damage) as port:
        with pytest.raises(BenchError, match="damaged bytes"):
            await asyncio.to_thread(measure, program, "http", port, 1, kind, 0.5, 0.05)


async def test_bytes_behind_an_answer_end_the_measurement(program: Path, backend: int) -> None:
    async with relay(backend, answer=lambda received: received + b"x") as port:
        with pytest.raises(BenchError, match="bytes behind an answer"):
            await asyncio.to_thread(measure, program, "http", port, 1, "get", 0, 0.05)


async def test_a_damaged_event_ends_the_measurement(program: Path, backend: int) -> None:
    async with relay(backend, answer=lambda received: received.replace(b"price", b"prize")) as port:
        with pytest.raises(BenchError, match="another event than was sent"):
            await asyncio.to_thread(measure, program, "events", port, 2, backend, 0, 0.05)


@pytest.mark.parametrize(
    ("kind", "old", "new", "complaint"),
    [
        ("get", b"sort=name", b"sort=size", "another target"),
        ("get", b"theme=dark", b"theme=lite", "Cookie"),
        ("get", b"Accept-Language: en-US,en;q=0.9\r\n", b"", "Accept-Language"),
        ("upload", b"POST", b"PUT", "the method"),
        ("upload", b"Content-Length: 1048576", b"Content-Length: 1048575", "Content-Length"),
    ],
)
async def test_a_request_with_another_head_is_refused(
    program: Path, backend: int, kind: str, old: bytes, new: bytes, complaint: str
) -> None:
    async with relay(backend, request=lambda received: received.replace(old, new)) as port:
        with pytest.raises(BenchError, match=f"X-Refused: {complaint}"):
            await asyncio.to_thread(measure, program, "http", port, 1, kind, 0, 0.05)


async def test_a_damaged_byte_of_an_upload_is_refused(program: Path, backend: int) -> None:
    def damage(received: bytes) -> bytes:
        return received if received.startswith(b"POST") else received[:-1] + bytes([received[-1] ^ 1])

    async with relay(backend, request=damage) as port:
        with pytest.raises(BenchError, match="damaged bytes of the body"):
            await asyncio.to_thread(measure, program, "http", port, 1, "upload", 0, 0.05)
