"""The client's end of one tunnel (RFC 6455): received bytes go in, bytes to send come out. No I/O, no clock.

The contents of messages do not matter, so payloads of any length are skipped. Pings are answered, a Close is echoed,
Pongs are recorded.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable

from gateway.probe.target import Target
from gateway.protocol.answers import ResponseReader
from gateway.protocol.closing import may_be_sent
from gateway.protocol.frames import MAX_CONTROL_PAYLOAD, close_frame, control_frame
from gateway.protocol.heads import BadResponse, ResponseHead
from gateway.protocol.scanner_state import BINARY, CLOSE, NO_STATUS, PING, PONG
from gateway.protocol.websocket import WEBSOCKET, refusal_of_101

_SWITCHING = 101
_MAX_REASON = 500


class Refused(Exception):
    """The handshake failed. ``status`` is the answer's, None without an HTTP answer; ``str()`` is the reason."""

    def __init__(self, status: int | None, reason: str, head: ResponseHead | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.head = head


class Endpoint:
    """The client of one tunnel."""

    def __init__(self, target: Target, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self.head: ResponseHead | None = None
        """of the 101, once it has arrived"""
        self.close_code: int | None = None
        """of the server's Close, 1005 if that has none; None until it arrives"""
        self.close_reason = ""
        self.broken = ""
        """why the server's bytes are not WebSocket frames; nothing is parsed after that"""
        self.pongs: list[bytes] = []
        self._target = target
        self._entropy = entropy
        self._key = b64encode(entropy(16))
        self._reader = ResponseReader()
        self._buffer = b""
        self._skip = 0
        self._closing = False

    def request(self) -> bytes:
        """Return the request head of the handshake."""
        return self._target.request(self._key)

    def ping(self, payload: bytes) -> bytes:
        """Encode a Ping."""
        return control_frame(PING, payload, self._entropy(4))

    def close(self, code: int = 1000) -> bytes:
        """Encode a Close; empty if one was already sent (section 5.5.1)."""
        if self._closing or self.head is None:
            return b""
        self._closing = True
        return close_frame(code, "", self._entropy(4))

    def feed(self, data: bytes) -> bytes:
        """Process received bytes, in any chunking; return the bytes to send in response.

        :raises Refused: they are an answer that does not open a tunnel
        """
        if self.head is None:
            data = self._handshake(data)
            if self.head is None:
                return b""
        return self._frames(data)

    def refusal(self, otherwise: str) -> Refused:
        """Return why no tunnel was opened, when no more data will come.

        :param otherwise: the reason if not even a head arrived
        """
        head = self._reader.head
        return self._refusal(head) if head.status >= 200 else Refused(None, otherwise)

    # --- handshake --------------------------------------------------------------------------------------------------

    def _handshake(self, data: bytes) -> bytes:
        """Read the answer; once it is a valid 101, return the bytes after its head."""
        if self._reader.head.status >= 200:  # its body
            self._reader.received += data
            self._check_body(self._reader.head)
            return b""
        try:
            head = self._reader.feed(data)
            while head is not None and 100 <= head.status < 200 and head.status != _SWITCHING:
                head = self._reader.feed(b"")  # an interim answer (RFC 9110 section 15.2)
        except BadResponse as error:
            raise Refused(None, str(error)) from None
        if head is None:
            return b""
        if head.status != _SWITCHING:
            self._check_body(head)
            return b""
        wrong = refusal_of_101(head, WEBSOCKET, self._key)
        if wrong is not None:
            raise Refused(_SWITCHING, f"the 101 does not open a WebSocket: {wrong}", head)
        self.head = head
        return self._reader.received

    def _check_body(self, head: ResponseHead) -> None:
        """Refuse once the answer's body has arrived too, if it is a short text, since it often says why."""
        if len(self._reader.received) >= self._readable_body(head):
            raise self._refusal(head)

    @staticmethod
    def _readable_body(head: ResponseHead) -> int:
        length = head.first.get(b"content-length", b"")
        is_text = head.first.get(b"content-type", b"").lower().startswith(b"text/plain")
        plain = is_text and b"content-encoding" not in head.first
        return int(length) if plain and length.isdigit() and int(length) <= _MAX_REASON else 0

    def _refusal(self, head: ResponseHead) -> Refused:
        said = self._reader.received[: self._readable_body(head)].decode(errors="replace").strip()
        line = f"{head.status} {head.reason.decode('latin-1')}".strip()
        return Refused(head.status, f"{line}: {said}" if said else line, head)

    # --- frames (section 5.2) ---------------------------------------------------------------------------------------

    def _frames(self, data: bytes) -> bytes:
        answer: list[bytes] = []
        data = self._buffer + data
        self._buffer = b""
        at = 0
        while not self.broken and self.close_code is None:
            skipped = min(self._skip, len(data) - at)
            self._skip -= skipped
            at += skipped
            if self._skip:
                break
            size = self._frame(data, at, answer)
            if not size:
                self._buffer = data[at:]
                break
            at += size
        return b"".join(answer)

    def _frame(self, data: bytes, at: int, answer: list[bytes]) -> int:
        """Read the frame at ``at``. Return its size without payload to be skipped; 0 if it is incomplete."""
        if len(data) - at < 2:
            return 0
        first, second = data[at], data[at + 1]
        opcode, size = first & 0x0F, second & 0x7F
        control = opcode >= CLOSE
        if (
            first & 0x70  # no extension was offered
            or second & 0x80
            or BINARY < opcode < CLOSE
            or opcode > PONG
            or (control and (size > MAX_CONTROL_PAYLOAD or not first & 0x80))
        ):
            self.broken = f"the server sent something that is not a WebSocket frame: {data[at : at + 20]!r}"
            return 0
        if control:
            payload = data[at + 2 : at + 2 + size]
            if len(payload) < size:
                return 0
            self._control(opcode, payload, answer)
            return 2 + size
        more = {126: 2, 127: 8}.get(size, 0)
        if len(data) - at < 2 + more:
            return 0
        self._skip = int.from_bytes(data[at + 2 : at + 2 + more], "big") if more else size
        return 2 + more

    def _control(self, opcode: int, payload: bytes, answer: list[bytes]) -> None:
        if opcode == PING:
            if not self._closing:
                answer.append(control_frame(PONG, payload, self._entropy(4)))
        elif opcode == PONG:
            self.pongs.append(payload)
        else:
            self.close_code = int.from_bytes(payload[:2], "big") if len(payload) > 1 else NO_STATUS
            self.close_reason = payload[2:].decode(errors="replace")
            answer.append(self.close(self.close_code if may_be_sent(self.close_code) else 1000))
