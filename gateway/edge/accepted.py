"""Answers that have made tunnels, so that the next one of the same wording need not be read again.

What a backend says when it accepts an upgrade to WebSocket differs from one handshake to the next in nothing but
``Sec-WebSocket-Accept``, and that can be told before it comes. Reading such an answer takes a tenth of what a handshake
costs in all (``make bench``, scenario ``handshake``); to see that it is known takes a hundredth.
"""

from __future__ import annotations

MAX_KNOWN = 256
MAX_BYTES = 1024
_PLACE = b"\0"
"""Stands where ``Sec-WebSocket-Accept`` was; no head that was read has it."""


class Accepted:
    """Wordings of such answers, and the subprotocol that each chooses."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def subprotocol(self, answer: bytes, accept: bytes) -> bytes | None:
        """What a known answer chooses, ``b""`` for none; None where an answer has to be read.

        :param accept: the right ``Sec-WebSocket-Accept``
        """
        return self._known.get(answer.replace(accept, _PLACE, 1))

    def remember(self, answer: bytes, accept: bytes, subprotocol: bytes) -> None:
        """Know an answer's wording from now on, if it is worth it.

        :param answer: a 101 that was read, found to be right, and is passed on to the client as it came
        """
        if len(answer) > MAX_BYTES or answer.count(accept) != 1:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()  # a backend that words each of them anew, with a date for instance
        self._known[answer.replace(accept, _PLACE)] = subprotocol
