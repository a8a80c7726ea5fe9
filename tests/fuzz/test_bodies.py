"""Hostile bodies: BadBody or an end, the same however TCP cuts them, and where a slow reader of the grammar sees it."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.answers import ResponseReader
from gateway.protocol.bodies import REFUSED_TRAILERS, Chunked, Dechunker, Length, UntilClose
from gateway.protocol.framing import answer_body, request_body
from gateway.protocol.heads import BadHead, BadResponse
from gateway.protocol.requests import RequestReader

from ..protocol import chunked
from ..protocol.streams import chunkings, one_by_one
from ..protocol.test_bodies import bodies, changed, scanned
from .pieces import ANSWERS, MANY, REQUESTS

HOSTILE = changed() | st.binary(max_size=80) | st.lists(changed() | bodies(), max_size=3).map(b"".join)


@given(HOSTILE, st.booleans(), st.data())
@MANY
def test_any_bytes(data, padded, draw):
    expected = chunked.read(data, padded, REFUSED_TRAILERS)
    for chunks in ([data], one_by_one(data), draw.draw(chunkings(data))):
        assert scanned(Dechunker(padded=padded), chunks) == expected
        assert scanned(Chunked(padded=padded), chunks, memoryview)[:2] == expected[:2]


@given(REQUESTS)
@MANY
def test_what_requests_announce(request):
    """A head that was read says where its body ends: in doubt it is refused before."""
    try:
        head = RequestReader().feed(request)
    except BadHead:
        return
    if head is None:
        return
    framer = request_body(head)
    if b"transfer-encoding" in head.first:
        assert type(framer) is Chunked
        assert head.first.keys().isdisjoint({b"content-length"})
    elif head.first.get(b"content-length", b"0").strip(b"0"):
        assert type(framer) is Length
    else:
        assert framer is None


@given(ANSWERS, st.sampled_from([b"GET", b"HEAD", b"CONNECT"]))
@MANY
def test_what_answers_announce(answer, method):
    try:
        head = ResponseReader().feed(answer)
        if head is None:
            return
        framer = answer_body(head, method)
    except BadResponse:
        return
    if framer is not None:
        assert method != b"HEAD"
        assert head.status >= 200
        announced = {b"transfer-encoding", b"content-length"} & head.first.keys()
        assert (type(framer) is UntilClose) == (not announced)
