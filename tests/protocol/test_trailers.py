"""Trailer fields that are taken out of a body in chunks, however it is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.bodies import BadBody, Chunked
from gateway.protocol.trailers import Trailers

BODY = b"5;a=b\r\nhel\r\n\r\n0\r\n"
WITHOUT = frozenset((b"server", b"x-env"))


def relayed(data: bytes, cuts: list[int]) -> bytes:
    """What goes on of a body that comes in pieces, some bytes into a buffer."""
    body = Chunked(padded=True)
    trailers = Trailers(body, WITHOUT)
    found = b""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for first, last in pairwise(edges):
        piece = b"head" + data[first:last]
        end = body.scan(piece, 4, len(piece))
        found += trailers.relayed(piece, 4, end)
    assert body.complete
    return found


@given(st.lists(st.integers(0, 200), max_size=8))
def test_any_pieces(cuts: list[int]) -> None:
    trailers = b"X-Sum: 1\r\nserver: a\r\nX_ENV: b\r\nx.Env: c\r\nServers: d\r\n\r\n"
    assert relayed(BODY + trailers, cuts) == BODY + b"X-Sum: 1\r\nServers: d\r\n\r\n"


@pytest.mark.parametrize("cuts", [[], list(range(100))])
def test_none_or_all(cuts: list[int]) -> None:
    assert relayed(BODY + b"\r\n", cuts) == BODY + b"\r\n"
    assert relayed(BODY + b"Server: a\r\n\r\n", cuts) == BODY + b"\r\n"


def test_what_is_behind_is_not_sent() -> None:
    body = Chunked()
    data = BODY + b"Server: a\r\n\r\nHTTP/1.1 200 OK\r\n"
    end = body.scan(data, 0, len(data))
    assert Trailers(body, WITHOUT).relayed(data, 0, end) == BODY + b"\r\n"


def test_they_are_bounded() -> None:
    body = Chunked(max_trailer=10)
    with pytest.raises(BadBody, match="too long a trailer"):
        body.scan(BODY + b"Server: abcdefg", 0, len(BODY) + 15)
