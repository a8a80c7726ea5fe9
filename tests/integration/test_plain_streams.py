"""Valid requests and answers, pipelined and split by TCP anywhere, arrive in order, byte for byte.

A message that is truncated at any byte never looks complete.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import StartGateway
from tests.support.deadline import turn
from tests.support.gateway import Gateway, to_one
from tests.support.plain import Do, RawBackend, Script, read_answer
from tests.support.raw import request
from tests.support.wire import Wire, dial

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = 60
SLOW_SECONDS = 0.02
MOST_PIECES = 200
"""of one message; the rest is sent at once"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, raw_backend: RawBackend) -> Gateway:
    return await start_shared_gateway(to_one(raw_backend.address))


# --- what is sent -----------------------------------------------------------------------------------------------------

TOKENS = st.text("abcXYZ019-.!~", min_size=1, max_size=8)
NAMES = TOKENS.map(lambda name: f"X-{name}")
VALUES = st.text("abc \t,;=\"\xe9'()", max_size=12).map(str.strip)
FIELDS = st.lists(st.tuples(NAMES, VALUES).map(": ".join), max_size=4)
METHODS = st.sampled_from(["GET", "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "FROBNICATE"])
TARGETS = st.text("ab/.%~?&=", max_size=10).map(lambda rest: "/x" + rest.replace("%", "%41").replace(".", "a."))
# Mostly short, and now and then more than sockets and the gateway's buffer take at a time.
BODIES = st.one_of(
    st.binary(max_size=40),
    st.integers(1, 400_000).map(lambda size: (bytes(range(256)) * (size // 256 + 1))[:size]),
    st.just(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n0\r\n\r\n"),
)
EXTENSIONS = st.sampled_from(["", ";a", ";a=b", ' ;a="b;c"'])
TRAILERS = st.lists(st.tuples(NAMES, VALUES).map(": ".join), max_size=2)


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    """A body in chunks, as sent."""
    pieces = [piece for piece in draw(st.lists(BODIES, max_size=3)) if piece]
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), draw(EXTENSIONS).encode(), piece) for piece in pieces)
    trailers = "".join(f"{line}\r\n" for line in draw(TRAILERS))
    return framed + b"0" + draw(EXTENSIONS).encode() + b"\r\n" + trailers.encode("latin-1") + b"\r\n"


@dataclass(repr=False)
class Exchanged:
    """A request, its answer, and what the client gets."""

    method: str
    request_head: bytes
    request_body: bytes
    answer: bytes
    expected: bytes
    """what the client gets"""
    closes: bool = False

    def mark(self, number: int) -> None:
        """Make the target unique."""
        self.request_head = self.request_head.replace(b" /", b" /%d" % number, 1)

    @property
    def target(self) -> str:
        return self.request_head.split(b" ", 2)[1].decode("latin-1")

    def __repr__(self) -> str:
        """Short, as bodies may be large."""
        return f"{self.request_head!r} with {len(self.request_body)} bytes, answered with {self.answer[:200]!r}..."


def head(first_line: str, fields: list[str]) -> bytes:
    return "\r\n".join((first_line, *fields, "", "")).encode("latin-1")


@st.composite
def exchanges(draw: st.DrawFn) -> Exchanged:
    method = draw(METHODS)
    fields = ["Host: gateway.test", *draw(FIELDS)]
    body = b""
    how = draw(st.sampled_from(["none", "length", "chunked"]))
    if how == "length":
        body = draw(BODIES)
        fields.append(f"Content-Length: {len(body)}")
    elif how == "chunked":
        body = draw(chunked())
        fields.append("Transfer-Encoding: chunked")
    answer, expected, closes = draw(answers(method))
    return Exchanged(
        method,
        head(f"{method} {draw(TARGETS)} HTTP/1.1", draw(st.permutations(fields))),
        body,
        answer,
        expected,
        closes,
    )


@st.composite
def answers(draw: st.DrawFn, method: str) -> tuple[bytes, bytes, bool]:
    """An answer, what the client gets, and whether its connection is closed afterwards."""
    status = draw(st.sampled_from(["200 OK", "200 OK", "201 Created", "404 Not Found", "500 Oops", "299 "]))
    fields = draw(FIELDS)
    interim = b"".join(draw(st.lists(st.sampled_from([head("HTTP/1.1 103 Early Hints", ["Link: </a>"])]), max_size=2)))
    how = draw(st.sampled_from(["length", "length", "chunked", "chunked", "none", "close"]))
    body = b""
    if how == "length":
        body = draw(BODIES)
        fields.append(f"Content-Length: {len(body)}")
    elif how == "chunked" and method != "HEAD":
        body = draw(chunked())
        fields.append("Transfer-Encoding: chunked")
    elif how == "close" and method != "HEAD":
        body = draw(BODIES)
    else:
        status = draw(st.sampled_from(["204 No Content", "304 Not Modified"]))
    if method == "HEAD":
        body = b""
    closes = how == "close" and method != "HEAD"
    whole = interim + head(f"HTTP/1.1 {status}", draw(st.permutations(fields))) + body
    if not closes:
        return whole, whole, False
    at = whole.index(b"\r\n\r\n", len(interim)) + 2
    return whole, whole[:at] + b"Connection: close\r\n" + whole[at:], True


SIZES = st.lists(st.sampled_from([1, 1, 2, 3, 5, 8, 13, 50, 500, 5000, 70_000]), min_size=1, max_size=6)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Pieces of these sizes, repeated."""
    pieces = []
    at = 0
    for number in range(MOST_PIECES):
        size = sizes[number % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in (*pieces, data[at:]) if piece]


async def send(wire: Wire, pieces: list[bytes]) -> None:
    for piece in pieces:
        await wire.send(piece)
        await turn()


@dataclass
class Client:
    """What one client sends, and how."""

    exchanged: list[Exchanged]
    sizes: list[int]
    """of the pieces that it sends, repeated; empty for one piece"""
    is_slow: bool
    """whether it reads only after sending as much as it can"""


@st.composite
def clients(draw: st.DrawFn) -> Client:
    made = draw(st.lists(exchanges(), min_size=1, max_size=4))
    last = next((number for number, exchanged in enumerate(made) if exchanged.closes), len(made) - 1)
    return Client(made[: last + 1], draw(st.one_of(st.just([]), SIZES)), draw(st.booleans()))


async def check_client(gateway: Gateway, client: Client) -> None:
    sent = b"".join(exchanged.request_head + exchanged.request_body for exchanged in client.exchanged)
    expected = b"".join(exchanged.expected for exchanged in client.exchanged)
    wire = await dial(gateway.address)
    try:
        sending = asyncio.create_task(send(wire, cut(sent, client.sizes) if client.sizes else [sent]))
        if client.is_slow:
            await asyncio.wait((sending,), timeout=SLOW_SECONDS)
        got = await wire.exactly(len(expected))
        await sending
        assert got == expected
        if client.exchanged[-1].closes:
            assert await wire.rest() == b""
            assert wire.ended == "fin"
        else:
            await wire.send(request("/after"))
            assert (await read_answer(wire)).body == b"/after"
    finally:
        wire.close()


def script_of(exchanged: Exchanged, sizes: list[int]) -> Script:
    script: list[bytes | float | Do] = []
    for piece in cut(exchanged.answer, sizes) if sizes else [exchanged.answer]:
        script += [piece, 0.0]
    return (*script, Do.CLOSE) if exchanged.closes else tuple(script)


@given(st.lists(clients(), min_size=1, max_size=3), st.one_of(st.just([]), SIZES))
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
async def test_everything_arrives(
    gateway: Gateway, raw_backend: RawBackend, connected: list[Client], backend_sizes: list[int]
) -> None:
    """Clients share the connections to the backend."""
    made = [exchanged for client in connected for exchanged in client.exchanged]
    for number, exchanged in enumerate(made):
        exchanged.mark(number)
    raw_backend.scripts_by_target = {exchanged.target: script_of(exchanged, backend_sizes) for exchanged in made}
    for link in raw_backend.plays():
        await link.ends()
    await asyncio.gather(*(check_client(gateway, client) for client in connected))
    seen = {message.head.target: message for message in raw_backend.requests if message.head is not None}
    assert len(raw_backend.requests) == len(seen) == len(made)
    for exchanged in made:
        message = seen[exchanged.target]
        assert message.head is not None
        assert message.head.raw.startswith(exchanged.request_head[:-2] + b"X-Forwarded-For: ")
        assert message.framed == exchanged.request_body


# --- what breaks off --------------------------------------------------------------------------------------------------

HINTS = b"HTTP/1.1 103 Early Hints\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef"
CHUNKS = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS
OPEN = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nabcdef"


@pytest.mark.parametrize("end", [Do.CLOSE, Do.RESET])
@pytest.mark.parametrize(
    ("interim", "answer"),
    [(b"", LENGTH), (b"", CHUNKED), (HINTS, LENGTH), (b"", OPEN)],
    ids=["length", "chunked", "interim", "until close"],
)
async def test_an_answer_that_breaks_off_at_any_byte(
    gateway: Gateway, raw_backend: RawBackend, interim: bytes, answer: bytes, end: Do
) -> None:
    whole = interim + answer
    head_end = whole.index(b"\r\n\r\n", len(interim)) + 4
    for at in range(len(whole)):
        raw_backend.plays((whole[:at], 0.005, end))
        wire = await dial(gateway.address)
        try:
            await wire.send(request("/broken"))
            got = await read_answer(wire)
            assert len(got.interim) == (1 if interim and at >= len(interim) else 0), at
            if at < head_end:
                assert (got.status, got.cut) == (502, None), at
                assert got.body.startswith(b"502 Bad Gateway: the backend"), at
                await wire.send(request("/after"))
                assert (await read_answer(wire)).body == b"/after", at
            elif answer is OPEN and end is Do.CLOSE:
                assert (got.framed, got.cut) == (whole[head_end:at], None), at
            else:
                assert got.framed == whole[head_end:at], at
                assert got.cut == "reset" if answer is OPEN else got.cut, at
        finally:
            wire.close()


@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize(
    "sent",
    [
        request("/x"),
        request("/x", "Content-Length: 6", method="POST") + b"abcdef",
        request("/x", "Transfer-Encoding: chunked", method="POST")
        + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n",
    ],
    ids=["no body", "length", "chunked"],
)
async def test_a_request_that_breaks_off_at_any_byte(
    gateway: Gateway, raw_backend: RawBackend, sent: bytes, end: str
) -> None:
    for at in range(1, len(sent)):
        raw_backend.plays()
        wire = await dial(gateway.address)
        try:
            await wire.send(sent[:at])
            if at > sent.index(b"\r\n\r\n") + 4:
                await raw_backend.asked()
            if end == "fin":
                wire.half_close()
                assert await wire.rest() == b"", at
            else:
                wire.reset()
        finally:
            wire.close()
        for seen in raw_backend.requests:
            assert seen.link is not None
            await seen.link.ends()
            assert seen.cut, at
    wire = await dial(gateway.address)
    try:
        await wire.send(request("/next"))
        assert (await read_answer(wire)).body == b"/next"
    finally:
        wire.close()
