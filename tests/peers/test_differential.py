"""The gateway, nginx and HAProxy do the same with the same bytes, or the table says why not.

The table describes nginx 1.22 and HAProxy 2.6, the versions in Debian 12. ``python -m tests.peers.differential`` prints
it with what each of the three does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.peers.differential.judging import faults
from tests.peers.differential.proxies import Proxies
from tests.peers.differential.rows import CLOSED, KEPT, Row, ans, passes, req
from tests.peers.differential.sights import HAPROXY, NGINX, OURS, Sight
from tests.peers.differential.table import ANSWERS, REQUESTS, TABLE
from tests.support.plain import OK, Message
from tests.support.raw import Head

LEAST_REQUESTS, LEAST_ANSWERS = 150, 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxies(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Proxies]:
    started = await Proxies.start(tmp_path_factory.mktemp("proxies"))
    yield started
    await started.close()


@pytest.fixture
def _log_is_clean(proxies: Proxies) -> Iterator[None]:
    yield
    proxies.gateway.check_log()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.usefixtures("_log_is_clean")
@pytest.mark.parametrize("name", TABLE)
async def test_a_row(proxies: Proxies, name: str) -> None:
    row = TABLE[name]
    found = faults(row, await proxies.play(row))
    assert not found, "\n".join(found)


def test_the_table_is_whole() -> None:
    assert len(REQUESTS) >= LEAST_REQUESTS
    assert len(ANSWERS) >= LEAST_ANSWERS
    assert len(TABLE) == len(REQUESTS) + len(ANSWERS), "two rows have one name"


# --- how a row is judged ----------------------------------------------------------------------------------------------


def message(head: bytes, framed: bytes = b"", body: bytes = b"") -> Message:
    return Message(Head(head), body=body or framed, framed=framed)


def sight(proxy: str, request: bytes = req("GET /"), answer: bytes = OK[:-2], end: str = KEPT) -> Sight:
    return Sight(proxy, [message(request)], [message(answer, b"ok")], end)


ROW = passes("row", req("GET /"))


def judged(row: Row, **others: Sight) -> list[str]:
    return faults(row, {OURS: sight(OURS), NGINX: sight(NGINX), HAPROXY: sight(HAPROXY)} | others)


def test_no_fault() -> None:
    assert judged(ROW) == []


@pytest.mark.parametrize(
    "other",
    [
        sight(NGINX, request=req("GET /x")),
        sight(NGINX, request=req("GET /", "X: y")),
        sight(NGINX, answer=ans("404 Not Found", "Content-Length: 2")),
        sight(NGINX, answer=ans("200 OK", "Content-Length: 2", "X: y")),
        sight(NGINX, answer=ans("500 Odd", "Content-Type: text/html")),
        sight(NGINX, end=CLOSED),
        Sight(NGINX, [], [message(OK[:-2], b"ok")], KEPT),
        Sight(NGINX, [message(req("GET /"))], [message(OK[:-2], b"no")], KEPT),
        Sight(NGINX, [message(req("GET /"))], [], KEPT),
    ],
    ids=["target", "field", "status", "field of the answer", "own answer", "end", "not asked", "body", "no answer"],
)
def test_a_difference_has_to_have_a_reason(other: Sight) -> None:
    (fault,) = judged(ROW, nginx=other)
    assert fault.startswith("nginx, without a reason: ")
    assert judged(passes("row", req("GET /"), nginx="because"), nginx=other) == []


def test_a_reason_has_to_have_a_difference() -> None:
    (fault,) = judged(passes("row", req("GET /"), haproxy="because"))
    assert fault == "haproxy does the same, where the row has a reason for a difference: because"


def test_style_is_no_difference() -> None:
    other = sight(
        HAPROXY,
        request=b"GET / HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n\r\n",
        answer=b"HTTP/1.1 200 OK\r\nserver: x\r\ndate: y\r\ncontent-length: 2\r\n\r\n",
    )
    assert judged(ROW, haproxy=other) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"2\r\nok\r\n0\r\n\r\n", b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", True),
        (b"2\r\nok\r\n0\r\nX: y\r\n\r\n", b"2\r\nok\r\n0\r\nx: y\r\n\r\n", True),
        (b"2\r\nok\r\n0\r\nX: y\r\n\r\n", b"2\r\nok\r\n0\r\n\r\n", False),
        (b"2;a=b\r\nok\r\n0\r\n\r\n", b"2\r\nok\r\n0\r\n\r\n", False),
    ],
    ids=["chunks", "case of a trailer", "a trailer", "an extension"],
)
def test_what_counts_of_chunks(one: bytes, other: bytes, same: bool) -> None:
    head = ans("200 OK", "Transfer-Encoding: chunked")
    row = Row("row", req("GET /"), got=(head + one,))
    sights = {
        name: Sight(name, [message(req("GET /"))], [message(head, framed, b"ok")], KEPT)
        for name, framed in ((OURS, one), (NGINX, other), (HAPROXY, one))
    }
    assert (faults(row, sights) == []) is same


@pytest.mark.parametrize(
    "other",
    [
        sight(OURS, request=b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        sight(OURS, answer=ans("200 OK", "content-length: 2")),
        sight(OURS, end=CLOSED),
    ],
)
def test_ours_has_to_be_right_to_the_byte(other: Sight) -> None:
    assert judged(ROW, ours=other)[0].startswith("ours: ")
