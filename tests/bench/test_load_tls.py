"""The benchmark's load over TLS: every mode carries its bytes, and what TLS refuses ends the measurement."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import build
from bench.certificate import Tls, fresh_certificate
from bench.errors import BenchError
from bench.load import running_load
from tests.bench.relaying import measure, relay


@pytest.fixture(scope="module")
def made() -> Iterator[Tls]:
    with fresh_certificate("1.3") as tls:
        yield tls


@pytest.fixture(scope="module")
def context(made: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    return context


@pytest.fixture(scope="module")
def tls_program(program: Path) -> Path:
    if not build.speaks_tls(program):
        pytest.skip(f"the load program is {build.NO_HEADERS}")
    return program


MODES: list[list[str | float]] = [
    ["echo", 4, 64, 0, 0.05],
    ["echo", 2, 200_000, 0, 0.05],
    ["latency", 4, 64, 0, 0.1, 500],
    ["handshake", 8, 8, 24],
    ["http", 4, "varied", 0, 0.05],
    ["http", 2, "download", 0, 0.05],
    ["http", 2, "upload", 0, 0.05],
]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(str(part) for part in mode[:3]))
async def test_every_mode_runs_over_tls_without_resumption(
    tls_program: Path, backend: int, made: Tls, context: ssl.SSLContext, mode: list[str | float], version: str
) -> None:
    resumed: list[bool] = []
    async with relay(backend, tls=context, resumed=resumed) as port:
        first = ["--tls", version, str(made.certificate)]
        result = await asyncio.to_thread(measure, tls_program, *first, mode[0], port, *mode[1:])
    assert result["count"] >= 2
    assert resumed
    assert not any(resumed)


async def test_answers_may_come_in_records_of_one_byte(
    tls_program: Path, backend: int, made: Tls, context: ssl.SSLContext
) -> None:
    async with relay(backend, tls=context, piece_bytes=1) as port:
        first = ["--tls", "1.3", str(made.certificate)]
        result = await asyncio.to_thread(measure, tls_program, *first, "http", port, 1, "get", 0, 0.01)
    assert result["count"] >= 1


async def test_silent_tunnels_are_kept_over_tls(
    tls_program: Path, backend: int, made: Tls, context: ssl.SSLContext
) -> None:
    def hold(port: int) -> int:
        with running_load(tls_program, "--tls", "1.3", str(made.certificate), "idle", port, 5, cores=None) as load:
            load.expect("ready", 20)
            load.go()
            result = load.result(20)
        assert result["lost"] == 0
        return int(result["count"])

    async with relay(backend, tls=context) as port:
        assert await asyncio.to_thread(hold, port) == 5


def test_messages_at_a_rate_go_on_until_a_line_says_stop(program: Path, backend: int) -> None:
    with running_load(program, "latency", backend, 4, 64, 0, 0, 500, cores=None) as load:
        for _ in range(2):
            load.expect("warm", 20)
            load.go()
            with pytest.raises(BenchError, match="nothing for"):
                load.result(0.1)
            load.go()
            assert load.result(20)["count"] > 10


async def test_a_damaged_byte_over_tls_ends_the_measurement(
    tls_program: Path, backend: int, made: Tls, context: ssl.SSLContext
) -> None:
    def damage(received: bytes) -> bytes:
        return received if received.startswith(b"HTTP") else received[:-1] + bytes([received[-1] ^ 1])

    async with relay(backend, tls=context, answer=damage) as port:
        first = ["--tls", "1.3", str(made.certificate)]
        with pytest.raises(BenchError, match="damaged bytes"):
            await asyncio.to_thread(measure, tls_program, *first, "echo", port, 1, 64, 0, 0.05)


async def test_another_certificate_ends_the_measurement(
    tls_program: Path, backend: int, context: ssl.SSLContext
) -> None:
    with fresh_certificate("1.3") as other:
        async with relay(backend, tls=context) as port:
            first = ["--tls", "1.3", str(other.certificate)]
            with pytest.raises(BenchError, match="certificate verify failed"):
                await asyncio.to_thread(measure, tls_program, *first, "handshake", port, 1, 1, 1)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS: handshake: .*wrong version number"), (b"", "cut a TLS handshake")],
)
async def test_a_proxy_without_tls_ends_the_measurement(
    tls_program: Path, made: Tls, answer: bytes, complaint: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        first = ["--tls", "1.3", str(made.certificate)]
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BenchError, match=complaint):
            await asyncio.to_thread(measure, tls_program, *first, "echo", port, 1, 64, 0, 0.05)


def test_without_openssl_headers_the_load_is_built_for_plain_tcp(
    backend: int, made: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BIN", tmp_path)
    monkeypatch.setattr(build, "TLS_HEADER", "openssl/no-such-header.h")
    program = build.build_load()
    assert not build.speaks_tls(program)
    assert measure(program, "echo", backend, 2, 64, 0, 0.02)["count"] >= 2
    with pytest.raises(BenchError, match="apt-get install libssl-dev"):
        measure(program, "--tls", "1.3", str(made.certificate), "echo", backend, 1, 64, 0, 0.05)
