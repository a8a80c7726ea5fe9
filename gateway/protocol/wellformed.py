"""Whether the fields of a head are well-formed, as llhttp judges them (RFC 9112 section 5)."""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpResponseParser

_START: Final = b"HTTP/1.1 200 OK"
_OURS: Final = {
    "Content-Length can't be present with Transfer-Encoding": "both Content-Length and Transfer-Encoding",
    "Content-Length overflow": "malformed Content-Length",
    "Duplicate Content-Length": "more than one Content-Length",
    "Empty Content-Length": "malformed Content-Length",
    "Invalid character in Content-Length": "malformed Content-Length",
    "Invalid header value char": "a control character in a field",
    "Missing expected CR after header value": "a line that does not end with CRLF",
    "Missing expected LF after header value": "a line that does not end with CRLF",
    "Transfer-Encoding can't be present with Content-Length": "both Content-Length and Transfer-Encoding",
    "Unexpected whitespace after header value": "a field that is folded over lines",
}
"""What llhttp says, in words of our own; whatever else it says is of a name, or what should be one."""

_NOBODY: Final = object()
"""Has none of the methods that a parser would call."""


def what_is_wrong(raw: bytes, line_end: int) -> str | None:
    """Why the fields of a head are malformed, in words that have no byte of them; None where they are not.

    Obsolete line folding, white space before a colon, control characters, lines that do not end with CRLF, and a
    ``Content-Length`` that is malformed, repeated or beside ``Transfer-Encoding`` are.

    llhttp knows a list of methods and protocols where any token and no other protocol than HTTP are to be taken: first
    lines are read elsewhere. It is shown all fields as those of one kind of answer, for which it has no rules but
    these.

    :param raw: a head with the empty line at its end
    :param line_end: index of the CRLF that ends its first line
    """
    try:
        HttpResponseParser(_NOBODY).feed_data(_START + raw[line_end:])
    except HttpParserError as error:
        return _OURS.get(str(error), "a malformed field name")
    return None
