"""Hostile bytes from one client, or in answers to it, never reach another client, and the gateway keeps working."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import StartGateway
from tests.support.deadline import quiet_for, within
from tests.support.gateway import Gateway, to_one
from tests.support.plain import OK, Message, RawBackend, Script, read_answer
from tests.support.raw import request
from tests.support.wire import dial

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = 60
SOON_SECONDS = 0.005
VICTIMS = 2
numbers = itertools.count()

CHUNKED_BODY = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
REQUESTS = [
    request("/attack"),
    request("/attack", "Content-Length: 6", method="POST") + b"abcdef",
    request("/attack", "Transfer-Encoding: chunked", method="POST") + CHUNKED_BODY,
    request("/attack", "Connection: keep-alive, x", "X: y", "Expect: 100-continue", "X-Forwarded-For: 192.0.2.66"),
    request("http://gateway.test/attack?q", method="HEAD"),
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX: y\r\n\r\nabcdef",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED_BODY,
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n",
]
INSERTED = [
    *(bytes((byte,)) for byte in b"\r\n \t\0:;,_-/.%09azA\x7f\xff"),
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: content-length\r\n",
    b"Upgrade: websocket\r\n",
    b"X_Forwarded_For: 192.0.2.66\r\n",
    b"Host: other.test\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    b"GET /attack HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
]


@st.composite
def broken(draw: st.DrawFn, bases: list[bytes]) -> bytes:
    """One or more of these, with a few bytes changed."""
    data = b"".join(draw(st.lists(st.sampled_from(bases), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        removed = draw(st.sampled_from([0, 0, 1, 2, 10]))
        data = data[:at] + draw(st.sampled_from([*INSERTED, b""])) + data[at + removed :]
    return data


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(start_shared_gateway: StartGateway, raw_backend: RawBackend) -> Gateway:
    return await start_shared_gateway(to_one(raw_backend.address))


def answer_to(target: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target.encode())


async def be_victim(gateway: Gateway, raw_backend: RawBackend) -> None:
    """Ask several times; each answer must be the right one."""
    targets = [f"/victim/{next(numbers)}" for _ in range(3)]
    raw_backend.scripts_by_target = {
        **raw_backend.scripts_by_target,
        **{target: (answer_to(target),) for target in targets},
    }
    wire = await dial(gateway.address)
    try:
        for target in targets:
            await wire.send(request(target))
            answer = await read_answer(wire)
            assert (answer.status, answer.body) == (200, target.encode())
    finally:
        wire.close()


async def attack(gateway: Gateway, sent: bytes) -> None:
    """Send bytes, then disconnect."""
    wire = await dial(gateway.address)
    try:
        await wire.send(sent)
        await quiet_for(SOON_SECONDS)
        wire.half_close()
        await wire.rest()
    finally:
        wire.close()


HEAD = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ (?:/[\x21-\x7e]*|\*) HTTP/1\.1\r\n"
    rb"(?:[!#$%&'*+\-.^`|~0-9A-Za-z]+:[\t \x21-\x7e\x80-\xff]*\r\n)*\r\n"
)


def check_head(message: Message) -> None:
    """The backend gets a head that is unambiguous, and whose X-Forwarded-* fields are the gateway's."""
    assert message.head is not None
    assert HEAD.fullmatch(message.head.raw), message.head.raw
    names = [name.lower() for name, _ in message.head.fields]
    for name in ("host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"):
        assert names.count(name) == 1, message.head.raw
    assert message.value("X-Forwarded-For") == "127.0.0.1"
    lengths, codings = message.head.values("content-length"), message.head.values("transfer-encoding")
    assert len(lengths) + len(codings) <= 1, message.head.raw
    assert all(length.isdigit() for length in lengths)
    assert all(coding.lower() == "chunked" for coding in codings)
    assert "connection" not in names


@given(st.lists(broken(REQUESTS), min_size=1, max_size=3))
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
async def test_broken_requests(gateway: Gateway, raw_backend: RawBackend, attacks: list[bytes]) -> None:
    raw_backend.scripts_by_target = {}
    raw_backend.plays((OK,))
    await asyncio.gather(
        *(attack(gateway, sent) for sent in attacks),
        *(be_victim(gateway, raw_backend) for _ in range(VICTIMS)),
    )
    for message in raw_backend.requests:
        check_head(message)


@st.composite
def broken_scripts(draw: st.DrawFn) -> Script:
    """A broken answer in one or two pieces; the second may arrive on an idle connection."""
    answer = draw(broken(ANSWERS))
    cut = draw(st.one_of(st.none(), st.integers(0, len(answer))))
    return (answer,) if cut is None else (answer[:cut], SOON_SECONDS, answer[cut:])


@given(st.lists(broken_scripts(), min_size=1, max_size=4))
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
async def test_broken_answers(gateway: Gateway, raw_backend: RawBackend, scripts: list[Script]) -> None:
    attacks = [f"/attack/{next(numbers)}" for _ in scripts]
    raw_backend.scripts_by_target = dict(zip(attacks, scripts, strict=True))
    raw_backend.plays()

    async def be_answered(target: str) -> None:
        wire = await dial(gateway.address)
        try:
            wire.patience_seconds = 4 * SOON_SECONDS
            await wire.send(request(target))
            with contextlib.suppress(AssertionError):  # it may well not be whole
                await read_answer(wire)
        finally:
            wire.close()

    await asyncio.gather(*(be_answered(target) for target in attacks))
    for message in raw_backend.requests:
        await within(message.played.wait(), "all of an answer to be sent")
    await asyncio.gather(*(be_victim(gateway, raw_backend) for _ in range(VICTIMS)))
