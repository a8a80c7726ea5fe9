"""Heads of a backend's answers: interim ones, the final one, and where its body ends."""

import pytest

from gateway.protocol.answers import ResponseReader
from gateway.protocol.heads import MAX_FIELDS, BadResponse
from gateway.protocol.heads import MAX_HEAD_BYTES as MAX_REQUEST_BYTES

from .heads import head_bytes

pytestmark = pytest.mark.either_build

MAX_HEAD_BYTES = 2 * MAX_REQUEST_BYTES
SWITCHING = (b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade")
INTERIM = head_bytes(b"HTTP/1.1 103 Early Hints", b"Link: </a>")
MALFORMED = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "HTTP/2.0": head_bytes(b"HTTP/2.0 101 Switching Protocols"),
    "RTSP": head_bytes(b"RTSP/1.0 200 OK"),
    "an empty line before": b"\r\n" + head_bytes(*SWITCHING),
    "only empty lines": b"\r\n\r\n",
    "status below 100": head_bytes(b"HTTP/1.1 099 Low"),
    "status 000": head_bytes(b"HTTP/1.1 000 None"),
    "status of four digits": head_bytes(b"HTTP/1.1 1010 Switching"),
    "no status": head_bytes(b"HTTP/1.1 OK"),
    "NUL in the reason": head_bytes(b"HTTP/1.1 200 a\0b"),
    "escape character in the reason": head_bytes(b"HTTP/1.1 200 a\x1b[2J"),
    "status in another alphabet": head_bytes(b"HTTP/1.1 2\xb2\xb20 OK"),
    "HTTP/1.2": head_bytes(b"HTTP/1.2 200 OK"),
    "tab behind the version": head_bytes(b"HTTP/1.1\t200 OK"),
    "NUL in a value": head_bytes(b"HTTP/1.1 200 OK", b"X: s3cret\0"),
    "NUL in a name": head_bytes(b"HTTP/1.1 200 OK", b"s3cret\0: a"),
    "no colon": head_bytes(b"HTTP/1.1 200 OK", b"s3cret"),
    "obs-fold behind a bare LF": b"HTTP/1.1 200 OK\nX: s3cret\n b\n\n",
    "two Content-Lengths": head_bytes(b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Content-Length: 6"),
    "malformed Content-Length": head_bytes(b"HTTP/1.1 200 OK", b"Content-Length: s3cret"),
    "bare CR": head_bytes(b"HTTP/1.1 200 OK", b"X: a\rY: b"),
    "obs-fold": head_bytes(b"HTTP/1.1 200 OK", b"X: s3cret", b" b"),
    "space before a colon": head_bytes(b"HTTP/1.1 200 OK", b"X : a"),
    "two framings": head_bytes(b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "too large": head_bytes(b"HTTP/1.1 200 OK", b"X: " + b"a" * MAX_HEAD_BYTES),
    "too large and no end": b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES,
    "too many fields": head_bytes(b"HTTP/1.1 200 OK", *[b"X: a"] * (2 * MAX_FIELDS + 1)),
    "bad behind an interim one": INTERIM + b"what?",
}


def answers(*chunks):
    """The heads that are read, and the bytes behind the final one; or BadResponse."""
    reader = ResponseReader()
    found = []
    for i, chunk in enumerate(chunks):
        try:
            head = reader.feed(chunk)
            while head is not None:
                found.append((head.status, head.reason, head.fields))
                if head.status == 101 or head.status >= 200:
                    return found, reader.received + b"".join(chunks[i + 1 :])
                head = reader.feed(b"")
        except BadResponse:
            return BadResponse
    return found, None


def at_every_cut(data):
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, min(len(data), 200)):
        yield [data[:at], data[at:]]


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed(data):
    for chunks in at_every_cut(data) if len(data) < MAX_HEAD_BYTES else [[data], [data[:100], data[100:]]]:
        assert answers(*chunks) is BadResponse


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_clients_may_be_told_what_is_wrong(data):
    """The words are the gateway's own, and no byte of the backend's is in them."""
    reader = ResponseReader()
    if data.startswith(INTERIM):
        assert reader.feed(INTERIM) is not None
        data = data.removeprefix(INTERIM)
    with pytest.raises(BadResponse, match=r"\A[A-Za-z0-9/. ]+(: [A-Za-z0-9/. -]+)?\Z") as caught:
        reader.feed(data)
    assert "s3cret" not in str(caught.value)


LF_ONLY = head_bytes(b"HTTP/1.1 101 x", b"Upgrade: a", b"Connection: Upgrade", b"X: \xe9 ")


@pytest.mark.parametrize(
    "data",
    [
        LF_ONLY.replace(b"\r\n", b"\n"),
        LF_ONLY.replace(b"\r\n", b"\n", 1),
        LF_ONLY[:-4] + b"\n\r\n",
        LF_ONLY[:-4] + b"\r\n\n",
        LF_ONLY[:-4] + b"\n\n",
    ],
)
@pytest.mark.parametrize("behind", [b"", b"\x81\0\n\n", b"\r\n\r\n", b"\n\r\n"])
def test_lines_that_end_with_lf_alone(data, behind):
    whole = [(101, b"x", [(b"Upgrade", b"a"), (b"Connection", b"Upgrade"), (b"X", b"\xe9")])], behind
    for chunks in at_every_cut(data + behind):
        assert answers(*chunks) == whole
    reader = ResponseReader()
    head = reader.feed(data + behind)
    assert head.raw == LF_ONLY
    assert head.size == len(data)
    assert head.lines(()) == LF_ONLY[:-4].split(b"\r\n")[1:]


def test_interim_answers_of_either_form():
    lf = INTERIM.replace(b"\r\n", b"\n")
    for data in (lf + INTERIM + head_bytes(*SWITCHING), INTERIM + lf + head_bytes(*SWITCHING).replace(b"\r\n", b"\n")):
        for chunks in at_every_cut(data + b"x"):
            found, behind = answers(*chunks)
            assert [status for status, _, _ in found] == [103, 103, 101]
            assert behind == b"x"


def test_other_limits():
    data = head_bytes(b"HTTP/1.1 200 OK", b"X: a", b"Y: b")
    assert ResponseReader(max_size=len(data), max_fields=2).feed(data + b"body") is not None
    for limits in ({"max_size": len(data) - 1}, {"max_fields": 1}):
        with pytest.raises(BadResponse):
            ResponseReader(**limits).feed(data)
    assert ResponseReader(max_fields=2).feed(INTERIM + data) is not None


@pytest.mark.parametrize(
    ("data", "statuses", "behind"),
    [
        (head_bytes(*SWITCHING) + b"\x81\x05hello", [101], b"\x81\x05hello"),
        (INTERIM + head_bytes(*SWITCHING), [103, 101], b""),
        (head_bytes(b"HTTP/1.1 100 Continue") + INTERIM + head_bytes(*SWITCHING) + b"x", [100, 103, 101], b"x"),
        (head_bytes(b"HTTP/1.1 101"), [101], b""),
        (head_bytes(*SWITCHING, b"Content-Length: 5") + b"\x89\0", [101], b"\x89\0"),
        (head_bytes(b"HTTP/1.0 403 Forbidden") + b"no", [403], b"no"),
        (head_bytes(b"HTTP/1.1 999 \xe9") + b"no", [999], b"no"),
    ],
)
def test_cut_anywhere(data, statuses, behind):
    whole = answers(data)
    assert [status for status, _, _ in whole[0]] == statuses
    assert whole[1] == behind
    for chunks in at_every_cut(data):
        assert answers(*chunks) == whole


def test_status_line_and_fields_as_they_came():
    reader = ResponseReader()
    head = reader.feed(head_bytes(b"HTTP/1.1 401 Who \xe9?", b"Set-Cookie: a", b"set-cookie: b", b"X: c \t"))
    assert (head.status, head.reason, head.http11) == (401, b"Who \xe9?", True)
    assert head.fields == [(b"Set-Cookie", b"a"), (b"set-cookie", b"b"), (b"X", b"c")]
