"""Streams of records: opened, sealed, with alerts and messages after the handshake (RFC 8446 5, RFC 5246 6).

One object serves all connections of a process; what differs between them is in their sessions (``state.py``). Records
are opened from one buffer, ``wire``, and sealed into it. Sealed bytes have to be sent in order and never sealed again:
a nonce is used once, since the sequence number advances before a record is seen outside.

Compiled by Cython if a C compiler is available (types in ``records.pxd``), run as it is otherwise.
"""

from __future__ import annotations

from gateway.protocol.tls.alerts import (
    BAD_RECORD_MAC,
    CLOSE_NOTIFY,
    DECODE_ERROR,
    FATAL,
    NO_RENEGOTIATION,
    RECORD_OVERFLOW,
    UNEXPECTED_MESSAGE,
    USER_CANCELED,
    WARNING,
)
from gateway.protocol.tls.content import (
    ALERT,
    APPLICATION_DATA,
    BROKEN,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO,
    CLOSED,
    FATAL_ALERT,
    HANDSHAKE,
    HEADER_BYTES,
    HELLO_REQUEST,
    KEY_UPDATE,
    MAX_EMPTY_RECORDS,
    MAX_KEY_UPDATES,
    MAX_MESSAGE_BYTES,
    MAX_PLAIN_BYTES,
    MAX_SEALED_TLS12,
    MAX_SEALED_TLS13,
    NEW_SESSION_TICKET,
    NOTHING,
    OVERHEAD_BYTES,
    RECORDS_BY_KEY,
    SILENCE_NS,
    SMALL_BURST_BYTES,
    SMALL_BYTES,
)
from gateway.protocol.tls.protection import Protection
from gateway.protocol.tls.schedule import next_keys
from gateway.protocol.tls.state import (
    ACCEPTED,
    ANSWER_DUE,
    BURST_BYTES,
    DIALLED,
    EMPTY_RECORDS,
    HANDSHAKE_HAVE,
    HANDSHAKE_HEAD,
    HANDSHAKE_LEFT,
    IN,
    IN_CLOSED,
    IN_SEQ,
    OUT,
    OUT_CLOSED,
    OUT_SEQ,
    ROLE,
    SENT_NS,
    TLS13,
    VERSION,
)


class Records:
    """Opens and seals the records of all TLS connections of a process."""

    def __init__(self, wire: bytearray) -> None:
        """:param wire: where records are opened from and sealed into"""
        self.wire = wire
        self.protection = Protection()
        self.used = 0
        """end of the last record that :meth:`open` took; what is behind it is half a record"""
        self.event = NOTHING
        """what ended the stream, in the last :meth:`open`"""
        self.alert = 0
        """description of the alert that was received (``FATAL_ALERT``), or is to be sent (``BROKEN``)"""
        self._message = bytearray(5)
        self._key_updates = 0
        """in the last :meth:`open`"""

    # --- receiving ----------------------------------------------------------------------------------------------------

    def open(self, cells: memoryview[int], at: int, start: int, end: int, sink: bytearray, sink_at: int) -> int:
        """Open all whole records of ``wire[start:end]``; put the data behind each other into ``sink`` from ``sink_at``.

        Data that came before what ended the stream (``event``) is in ``sink`` as well. Afterwards ``ANSWER_DUE`` of the
        session may be set: see :meth:`answer`.

        :param at: first cell of the session
        :param sink: has room for ``end - start`` bytes from ``sink_at``
        :returns: bytes put into ``sink``
        """
        data = self.wire
        put = sink_at
        is_tls13 = cells[at + VERSION] == TLS13
        most = MAX_SEALED_TLS13 if is_tls13 else MAX_SEALED_TLS12
        self.event = NOTHING
        self.used = start
        self._key_updates = updates = 0
        while end - start >= HEADER_BYTES:
            kind = data[start]
            size = data[start + 3] << 8 | data[start + 4]
            if data[start + 1] != 3 or kind < CHANGE_CIPHER_SPEC or kind > APPLICATION_DATA:
                self._break(UNEXPECTED_MESSAGE)
                break
            if size > most:
                self._break(RECORD_OVERFLOW)
                break
            # After the handshake all records are protected: RFC 8446 5.2 allows only this type outside.
            if is_tls13 and kind != APPLICATION_DATA:
                self._break(UNEXPECTED_MESSAGE)
                break
            if end - start < HEADER_BYTES + size:
                break
            got = self.protection.open(cells, at, data, start, start + HEADER_BYTES + size, sink, put)
            if got < 0:
                self._break(BAD_RECORD_MAC)
                break
            cells[at + IN_SEQ] += 1
            start += HEADER_BYTES + size
            self.used = start
            if is_tls13:
                while got and not sink[put + got - 1]:  # padding (RFC 8446 5.4)
                    got -= 1
                if not got:
                    self._break(UNEXPECTED_MESSAGE)
                    break
                got -= 1
                kind = sink[put + got]
            if got > MAX_PLAIN_BYTES:
                self._break(RECORD_OVERFLOW)
                break
            if kind == APPLICATION_DATA:
                if cells[at + HANDSHAKE_HAVE]:  # no other record may come between its pieces (RFC 8446 5.1)
                    self._break(UNEXPECTED_MESSAGE)
                    break
                if got:
                    put += got
                    cells[at + EMPTY_RECORDS] = 0
                    continue
            elif kind == ALERT:
                self._take_alert(cells, at, sink, put, got)
            elif kind == HANDSHAKE:
                self._take_handshake(cells, at, sink, put, got)
            else:
                self._break(UNEXPECTED_MESSAGE)
            if self.event:
                break
            if self._key_updates > updates:
                updates = self._key_updates
                continue
            cells[at + EMPTY_RECORDS] += 1
            if cells[at + EMPTY_RECORDS] > MAX_EMPTY_RECORDS:
                self._break(UNEXPECTED_MESSAGE)
                break
        return put - sink_at

    def _break(self, alert: int) -> None:
        """The records are invalid. :param alert: description for the peer"""
        self.event = BROKEN
        self.alert = alert

    def _take_alert(self, cells: memoryview[int], at: int, data: bytearray, start: int, size: int) -> None:
        """An alert (RFC 8446 6). With TLS 1.3 all but close_notify and user_canceled are fatal, at any level."""
        if size != 2:
            self._break(DECODE_ERROR)
            return
        level = data[start]
        description = data[start + 1]
        if description == CLOSE_NOTIFY:
            cells[at + IN_CLOSED] = 1
            self.event = CLOSED
        elif description == USER_CANCELED or (cells[at + VERSION] != TLS13 and level == WARNING):
            pass
        else:
            self.event = FATAL_ALERT
            self.alert = description

    def _take_handshake(self, cells: memoryview[int], at: int, data: bytearray, start: int, size: int) -> None:
        """Messages after the handshake: tickets are skipped, key updates done, everything else refused."""
        end = start + size
        if not size:  # RFC 8446 5.1 forbids it
            self._break(UNEXPECTED_MESSAGE)
            return
        while start < end:
            have = cells[at + HANDSHAKE_HAVE]
            if have < 4:
                cells[at + HANDSHAKE_HEAD] = cells[at + HANDSHAKE_HEAD] << 8 | data[start]
                cells[at + HANDSHAKE_HAVE] = have + 1
                start += 1
                if have < 3:
                    continue
                left = cells[at + HANDSHAKE_HEAD] & 0xFFFFFF
                if not self._may_come(cells, at, cells[at + HANDSHAKE_HEAD] >> 24, left):
                    return
                cells[at + HANDSHAKE_LEFT] = left
            left = cells[at + HANDSHAKE_LEFT]
            if left and start == end:
                return
            if left and cells[at + HANDSHAKE_HEAD] >> 24 == KEY_UPDATE:
                wanted = data[start]
                # New keys begin with the next record: nothing may follow in this one (RFC 8446 5.1).
                if start + 1 != end or wanted > 1:
                    self._break(UNEXPECTED_MESSAGE)
                    return
                self._key_updates += 1
                if self._key_updates > MAX_KEY_UPDATES:
                    self._break(UNEXPECTED_MESSAGE)
                    return
                next_keys(cells, at, IN)
                if wanted:
                    cells[at + ANSWER_DUE] = 1
                start = end
                left = 0
            else:
                taken = left if left < end - start else end - start
                start += taken
                left -= taken
            cells[at + HANDSHAKE_LEFT] = left
            if not left:
                cells[at + HANDSHAKE_HAVE] = 0
                cells[at + HANDSHAKE_HEAD] = 0

    def _may_come(self, cells: memoryview[int], at: int, kind: int, size: int) -> bool:
        """Whether a message may come after the handshake; otherwise the connection is over."""
        if cells[at + VERSION] == TLS13:
            if kind == KEY_UPDATE and size == 1:
                return True
            if kind == NEW_SESSION_TICKET and cells[at + ROLE] == DIALLED and size <= MAX_MESSAGE_BYTES:
                return True
        elif kind == HELLO_REQUEST and cells[at + ROLE] == DIALLED and not size:
            return True  # a client may ignore it (RFC 5246 7.4.1.1)
        elif kind == CLIENT_HELLO and cells[at + ROLE] == ACCEPTED:
            self._break(NO_RENEGOTIATION)
            return False
        self._break(UNEXPECTED_MESSAGE)
        return False

    # --- sending ------------------------------------------------------------------------------------------------------

    def seal(self, cells: memoryview[int], at: int, source: bytearray | bytes, start: int, end: int, now: int) -> int:
        """Seal ``source[start:end]`` as records at the start of ``wire``, and advance the sequence number.

        The first ones after a silence are small, so that the receiver can begin before 16 KiB have come.

        :param at: first cell of the session
        :param now: a clock, in nanoseconds
        :returns: bytes in ``wire``
        :raises ValueError: there is no room for them; nothing was sealed
        """
        if end - start > len(self.wire) - (end - start >> 14) * OVERHEAD_BYTES - 20 * OVERHEAD_BYTES:
            raise ValueError("more data than there is room for sealed")
        put = 0
        if cells[at + VERSION] == TLS13 and cells[at + OUT_SEQ] >= RECORDS_BY_KEY:
            put = self._update_keys(cells, at, put)
        if end - start > SMALL_BYTES:
            if now - cells[at + SENT_NS] >= SILENCE_NS:
                cells[at + BURST_BYTES] = 0
            while cells[at + BURST_BYTES] < SMALL_BURST_BYTES and end - start > SMALL_BYTES:
                put = self._seal(cells, at, APPLICATION_DATA, source, start, start + SMALL_BYTES, put)
                cells[at + BURST_BYTES] += SMALL_BYTES
                start += SMALL_BYTES
        cells[at + SENT_NS] = now
        while start < end:
            stop = end if end - start <= MAX_PLAIN_BYTES else start + MAX_PLAIN_BYTES
            put = self._seal(cells, at, APPLICATION_DATA, source, start, stop, put)
            start = stop
        return put

    def _seal(
        self, cells: memoryview[int], at: int, kind: int, source: bytearray | bytes, start: int, end: int, put: int
    ) -> int:
        """Seal one record into ``wire`` from ``put``. :returns: the end of it"""
        put += self.protection.seal(cells, at, kind, source, start, end, self.wire, put)
        cells[at + OUT_SEQ] += 1
        return put

    def _seal_message(self, cells: memoryview[int], at: int, kind: int, message: bytes, put: int) -> int:
        for i in range(len(message)):
            self._message[i] = message[i]
        return self._seal(cells, at, kind, self._message, 0, len(message), put)

    def close(self, cells: memoryview[int], at: int) -> int:
        """Seal close_notify (RFC 8446 6.1). :returns: bytes at the start of ``wire``; 0 if it was sealed before"""
        if cells[at + OUT_CLOSED]:
            return 0
        cells[at + OUT_CLOSED] = 1
        return self._seal_message(cells, at, ALERT, bytes((WARNING, CLOSE_NOTIFY)), 0)

    def refuse(self, cells: memoryview[int], at: int, description: int) -> int:
        """Seal the alert that ends a connection. Nothing may follow it. :returns: as :meth:`close`"""
        if cells[at + OUT_CLOSED]:
            return 0
        cells[at + OUT_CLOSED] = 1
        level = WARNING if description == NO_RENEGOTIATION else FATAL
        return self._seal_message(cells, at, ALERT, bytes((level, description)), 0)

    def answer(self, cells: memoryview[int], at: int) -> int:
        """Answer a KeyUpdate of the peer, if that is due, and use new keys from then on (RFC 8446 4.6.3).

        :returns: bytes at the start of ``wire``; 0 if none is due
        """
        if not cells[at + ANSWER_DUE]:
            return 0
        cells[at + ANSWER_DUE] = 0
        if cells[at + OUT_CLOSED]:
            return 0
        return self._update_keys(cells, at, 0)

    def _update_keys(self, cells: memoryview[int], at: int, put: int) -> int:
        put = self._seal_message(cells, at, HANDSHAKE, bytes((KEY_UPDATE, 0, 0, 1, 0)), put)
        next_keys(cells, at, OUT)
        return put
