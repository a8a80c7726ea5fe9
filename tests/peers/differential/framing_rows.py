"""Bodies of requests: where they end, and framing that is ambiguous or malformed (RFC 9112 sections 6 and 7)."""

from __future__ import annotations

from tests.peers.differential.rows import CLOSED, CUT, Row, passes, refused, req
from tests.support.plain import OK, Do

LF = "accepts LF as a line end (RFC 9112 section 2.2); a parser that looks for CRLF would read on"
LENGTH = "sends a length once all chunks have arrived, without extensions and trailers"
DROPS = "drops extensions, as RFC 9112 section 7.1.1 allows"
UNREAD = "ignores the content of extensions"
ONE = "accepts repetitions of one length, as RFC 9110 section 8.6 allows"
WINS = "prefers chunked and drops the length, as RFC 9112 section 6.3 allows"
ANY_TRAILER = "accepts any trailer"
SKIPS = "ignores trailers"
ANY_CODING = "answers 501 to anything but chunked"


def post(*fields: str, body: bytes = b"", line: str = "POST /") -> bytes:
    return req(line, *fields, body=body)


def chunks(body: bytes, *fields: str) -> bytes:
    """A POST with a body in chunks."""
    return req("POST /", "Transfer-Encoding: chunked", *fields, body=body)


LENGTHS = [
    passes("a length", post("Content-Length: 2", body=b"ab")),
    passes("length 0", post("Content-Length: 0")),
    passes("POST without a length", post()),
    passes("a length with zeros before it", post("Content-Length: 0002", body=b"ab"), nginx="rewrites the length"),
    passes(
        "a length with white space around it",
        post("Content-Length: \t2 ", body=b"ab"),
        nginx="does not strip a tab",
    ),
    passes("a body of GET", post("Content-Length: 2", body=b"ab", line="GET /")),
    passes("a body of DELETE", post("Content-Length: 2", body=b"ab", line="DELETE /")),
    passes("a body of an unknown method", post("Content-Length: 2", body=b"ab", line="FROBNICATE /")),
    passes("a body that looks like a request", post("Content-Length: 18", body=b"GET /x HTTP/1.1\r\n\r")),
    Row(
        "a body of HEAD",
        post("Content-Length: 2", body=b"ab", line="HEAD /"),
        got=(OK[:-2],),
    ),
    Row(
        "a body that comes later",
        (post("Content-Length: 4"), 0.02, b"ab", 0.02, b"cd"),
        (post("Content-Length: 4", body=b"abcd"),),
    ),
    refused("a length twice", post("Content-Length: 2", "Content-Length: 2", body=b"ab"), haproxy=ONE),
    refused("two lengths", post("Content-Length: 2", "Content-Length: 1", body=b"ab")),
    refused("a list of one length", post("Content-Length: 2, 2", body=b"ab"), haproxy=ONE),
    refused("a list of lengths", post("Content-Length: 2, 1", body=b"ab")),
    refused("a signed length", post("Content-Length: +2", body=b"ab")),
    refused("a negative length", post("Content-Length: -2", body=b"ab")),
    refused("a hexadecimal length", post("Content-Length: 0x2", body=b"ab")),
    refused("a length with a point", post("Content-Length: 2.0", body=b"ab")),
    refused("a length with a space in it", post("Content-Length: 2 0", body=b"ab")),
    refused("an empty length", post("Content-Length:", body=b"ab")),
    refused("a length that is not a number", post("Content-Length: two", body=b"ab")),
    refused("a length beyond 63 bits", post("Content-Length: 9223372036854775808", body=b"ab")),
    refused(
        "a length beyond 64 bits",
        post("Content-Length: 18446744073709551618", body=b"ab"),
        haproxy="does not detect the overflow, and forwards it",
    ),
]

CHUNKS = [
    passes("chunks", chunks(b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"), nginx=LENGTH),
    passes("no chunk but the last", chunks(b"0\r\n\r\n"), nginx=LENGTH),
    passes("sizes in both cases", chunks(b"A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n"), nginx=LENGTH),
    passes("sizes with zeros before them", chunks(b"0002\r\nab\r\n000\r\n\r\n"), nginx=LENGTH),
    passes("an extension", chunks(b"2;a=b\r\nab\r\n0;c\r\n\r\n"), nginx=LENGTH, haproxy=DROPS),
    passes("an extension in quotes", chunks(b'2;a="b;c"\r\nab\r\n0\r\n\r\n'), nginx=LENGTH, haproxy=DROPS),
    passes("white space before an extension", chunks(b"2 ;a=b\r\nab\r\n0\r\n\r\n"), nginx=LENGTH, haproxy=DROPS),
    passes("a trailer", chunks(b"2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n", "Trailer: X-Sum"), nginx=LENGTH),
    passes("unannounced trailers", chunks(b"2\r\nab\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"), nginx=LENGTH),
    passes("CHUNKED", req("POST /", "Transfer-Encoding: CHUNKED", body=b"2\r\nab\r\n0\r\n\r\n"), nginx=LENGTH),
    passes("chunked for GET", req("GET /", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n0\r\n\r\n"), nginx=LENGTH),
    Row(
        "chunks in many pieces",
        (chunks(b"2"), 0.02, b"\r\na", 0.02, b"b\r", 0.02, b"\n0\r\n", 0.02, b"\r\n"),
        (chunks(b"2\r\nab\r\n0\r\n\r\n"),),
    ),
    refused(
        "white space behind a size",
        chunks(b"2 \r\nab\r\n0\r\n\r\n"),
        nginx="accepts it, as servers need that write sizes of a fixed width; clients do not",
        haproxy="accepts it, as servers need that write sizes of a fixed width; clients do not",
    ),
    refused("white space before a size", chunks(b" 2\r\nab\r\n0\r\n\r\n")),
    refused("LF behind a size", chunks(b"2\nab\r\n0\r\n\r\n"), nginx=LF, haproxy=LF),
    refused("LF behind a chunk", chunks(b"2\r\nab\n0\r\n\r\n"), nginx=LF, haproxy=LF),
    refused("LF behind the last chunk", chunks(b"2\r\nab\r\n0\n\n"), nginx=LF, haproxy=LF),
    refused("LF behind a trailer", chunks(b"0\r\nX: y\n\r\n"), nginx=LF, haproxy=LF),
    refused("CR and no LF behind a size", chunks(b"2\rab\r\n0\r\n\r\n")),
    refused("a chunk that is longer than its size", chunks(b"1\r\nab\r\n0\r\n\r\n")),
    refused("a chunk without a size", chunks(b"\r\nab\r\n0\r\n\r\n")),
    refused("a size of 0x", chunks(b"0x2\r\nab\r\n0\r\n\r\n")),
    refused("a signed size", chunks(b"+2\r\nab\r\n0\r\n\r\n")),
    refused("a negative size", chunks(b"-2\r\nab\r\n0\r\n\r\n")),
    refused("a size of letters", chunks(b"zz\r\nab\r\n0\r\n\r\n")),
    refused("a size beyond 63 bits", chunks(b"8000000000000000\r\nab\r\n0\r\n\r\n")),
    refused("a size beyond 64 bits", chunks(b"10000000000000002\r\nab\r\n0\r\n\r\n")),
    refused("NUL in an extension", chunks(b"2;a=\0\r\nab\r\n0\r\n\r\n"), nginx=UNREAD, haproxy=UNREAD),
    refused("CR in an extension", chunks(b"2;a=\rb\r\nab\r\n0\r\n\r\n")),
    refused(
        "LF in an extension",
        chunks(b"2;a=\nb\r\nab\r\n0\r\n\r\n"),
        nginx="ends the extension at LF, and reads a chunk behind it",
        haproxy="ends the extension at LF, and reads a chunk behind it",
    ),
    refused(
        "an overlong extension",
        chunks(b"2;" + b"a" * 5000 + b"\r\nab\r\n0\r\n\r\n"),
        nginx="does not limit extensions",
        haproxy="does not limit extensions",
    ),
    refused("a trailer without a colon", chunks(b"0\r\nX\r\n\r\n"), nginx=SKIPS),
    refused("a folded trailer", chunks(b"0\r\nX: y\r\n z\r\n\r\n"), nginx=SKIPS, haproxy="joins the lines"),
    refused("Content-Length in a trailer", chunks(b"0\r\nContent-Length: 5\r\n\r\n"), nginx=SKIPS, haproxy=ANY_TRAILER),
    refused("Host in a trailer", chunks(b"0\r\nHost: y\r\n\r\n"), nginx=SKIPS, haproxy=ANY_TRAILER),
    refused(
        "X-Forwarded-For in a trailer",
        chunks(b"0\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n"),
        nginx=SKIPS,
        haproxy=ANY_TRAILER,
    ),
]


def coded(value: str, *fields: str, body: bytes = b"2\r\nab\r\n0\r\n\r\n", line: str = "POST /") -> bytes:
    return req(line, f"Transfer-Encoding: {value}", *fields, body=body)


CODINGS = [
    refused("gzip and chunked", coded("gzip, chunked"), 501, haproxy="answers 422"),
    refused("gzip", coded("gzip"), 501, haproxy="answers 400"),
    refused("identity", coded("identity"), 501, haproxy="answers 400"),
    refused("an unknown coding", coded("xchunked"), 501, haproxy="answers 400"),
    refused("chunked and identity", coded("chunked, identity"), nginx=ANY_CODING),
    refused("identity and chunked", coded("identity, chunked"), 501, haproxy="answers 422"),
    refused("chunked twice in one field", coded("chunked, chunked"), nginx=ANY_CODING),
    refused("chunked in two fields", coded("chunked", "Transfer-Encoding: chunked")),
    refused(
        "gzip and chunked in two fields",
        coded("gzip", "Transfer-Encoding: chunked"),
        501,
        nginx="answers 400 to any second Transfer-Encoding",
        haproxy="answers 422",
    ),
    refused("chunked with a parameter", coded("chunked;a=b"), nginx=ANY_CODING),
    refused("chunked in quotes", coded('"chunked"'), nginx=ANY_CODING),
    refused(
        "chunked and a comma",
        coded("chunked,"),
        nginx=ANY_CODING,
        haproxy="skips empty list members, as RFC 9110 section 5.6.1 requires",
    ),
    refused("an empty Transfer-Encoding", coded(""), nginx=ANY_CODING),
    refused("a vertical tab before chunked", coded("\x0bchunked"), nginx=ANY_CODING),
    refused("length and chunked", coded("chunked", "Content-Length: 12"), haproxy=WINS),
    refused(
        "chunked and length",
        req("POST /", "Content-Length: 12", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        haproxy=WINS,
    ),
    refused("length and identity", coded("identity", "Content-Length: 2", body=b"ab"), nginx=ANY_CODING),
    refused("chunked in HTTP/1.0", coded("chunked", line="POST / HTTP/1.0"), haproxy="accepts chunks in HTTP/1.0"),
    Row(
        "a request behind the last chunk of one with a length",
        req("POST /", "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + req("GET /hidden")),
        (),
        (400,),
        CLOSED,
        methods=("POST", "GET"),
        haproxy="prefers chunked, and closes afterwards",
    ),
    Row(
        "a request behind a chunk that ends with LF",
        chunks(b"3\nabc\r\n0\r\n\r\n") + req("GET /hidden"),
        (),
        (400,),
        CLOSED,
        methods=("POST", "GET"),
        nginx=LF,
        haproxy=LF,
    ),
]

BROKEN = [
    Row(
        "a malformed chunk behind a good one",
        (chunks(b"2\r\nab\r\n"), 0.1, b"zz\r\n"),
        (chunks(b"2\r\nab\r\n") + CUT,),
        (400,),
        CLOSED,
    ),
    Row(
        "a client that closes within a body",
        (post("Content-Length: 4", body=b"ab"), 0.1, Do.CLOSE),
        (post("Content-Length: 4", body=b"ab") + CUT,),
        (),
        CLOSED,
    ),
    Row(
        "a client that resets within a body",
        (post("Content-Length: 4", body=b"ab"), 0.1, Do.RESET),
        (post("Content-Length: 4", body=b"ab") + CUT,),
        (),
        CLOSED,
    ),
    Row(
        "a client that closes between chunks",
        (chunks(b"2\r\nab\r\n"), 0.1, Do.CLOSE),
        (chunks(b"2\r\nab\r\n") + CUT,),
        (),
        CLOSED,
    ),
    Row(
        "a client that closes within the trailer",
        (chunks(b"2\r\nab\r\n0\r\n"), 0.1, Do.CLOSE),
        (chunks(b"2\r\nab\r\n0\r\n") + CUT,),
        (),
        CLOSED,
    ),
    Row(
        "a client that closes within a head",
        (b"GET / HTTP/1.1\r\nHost: x\r\n", Do.CLOSE),
        (),
        (),
        CLOSED,
        haproxy="answers 400",
    ),
    Row("a client that closes at once", (b"", Do.CLOSE), (), (), CLOSED, methods=("GET",), haproxy="answers 400"),
]

ROWS = [*LENGTHS, *CHUNKS, *CODINGS, *BROKEN]
