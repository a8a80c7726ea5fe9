"""One TLS handshake, made by OpenSSL, with no I/O: records go in and out; what comes out in the end is a session.

OpenSSL is fed one record at a time and no record more than the handshake needs, so nothing is left inside when it is
complete: the keys are computed from the key log (``secrets.py``, ``protocol/tls/schedule.py``), the ``SSLObject`` is
dropped, and everything behind the handshake is ``protocol/tls/records.py``.
"""

from __future__ import annotations

import ssl
from array import array
from collections.abc import Callable
from typing import NamedTuple

from gateway.edge.tls.peers import fields_of
from gateway.edge.tls.reasons import (
    FAILED,
    NOT_TLS,
    PLAIN_HTTP,
    PROTOCOL_ERROR,
    TOO_LARGE,
    HandshakeFailed,
    failure_of,
)
from gateway.edge.tls.secrets import KeyLog
from gateway.protocol.tls.content import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO,
    HANDSHAKE,
    HEADER_BYTES,
    MAX_RECORD_BYTES,
)
from gateway.protocol.tls.hello import HEAD_BYTES, server_name_of
from gateway.protocol.tls.keylog import CLIENT_TRAFFIC, MASTER, SERVER_TRAFFIC
from gateway.protocol.tls.schedule import SUITES, session_of_tls12, session_of_tls13
from gateway.protocol.tls.state import ACCEPTED, DIALLED

MOST_BYTES = 256 * 1024
"""Of a handshake in one direction. A client's certificate chain has a few KiB, and OpenSSL takes 100 KiB of one."""

MOST_RECORDS = 2048
"""Of a handshake in one direction: a hostile peer may send each byte in a record of its own."""

SERVER_HELLO = 2
_RANDOM_AT = 4 + 2  # type and length of the message, version
_METHODS = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ")


class Established(NamedTuple):
    """A TLS connection whose handshake is complete."""

    cells: array[int]
    """its session (``protocol/tls/state.py``)"""
    version: str
    """``1.2`` or ``1.3``"""
    cipher: str
    """OpenSSL's name of the suite"""
    alpn: str | None
    """the protocol that both ends agreed on"""
    server_name: str | None
    """that the client asked for (SNI)"""
    certificate: bytes | None
    """the peer's, DER; None if it sent none"""
    resumed: bool
    client_fields: bytes
    """what a client's certificate says, as lines of a head (``peers.py``)"""


class Handshake:
    """A handshake under way. :meth:`receive`, then :meth:`step` while :attr:`has_record`; send :meth:`take_output`."""

    __slots__ = (
        "_bytes",
        "_choose",
        "_client_hello",
        "_client_random",
        "_explicit",
        "_flights",
        "_held",
        "_incoming",
        "_key_log",
        "_object",
        "_outgoing",
        "_output",
        "_received",
        "_records",
        "_secrets",
        "_server_hello",
        "_switched",
        "established",
        "server_name",
    )

    def __init__(
        self,
        key_log: KeyLog,
        choose: Callable[[str | None], ssl.SSLContext] | None = None,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        """
        Toward a client, give ``choose``, toward a backend ``context``. Contexts log their keys to ``key_log``.

        :param choose: returns the context for a host name in lower case; None where the client asks for none
        :param server_name: toward a backend, the name to ask for and to verify
        """
        self._key_log = key_log
        self._choose = choose
        self.server_name = server_name
        """that is asked for (SNI); toward a client once its ClientHello is there"""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object: ssl.SSLObject | None = None
        if context is not None:
            self._object = context.wrap_bio(self._incoming, self._outgoing, False, server_name)
        self._received = bytearray()
        self._output = b""
        self._records = self._bytes = 0
        self._client_hello = bytearray()
        self._held = b""
        """records of a ClientHello that has not come whole"""
        self._server_hello = bytearray()
        self._flights: list[bytes] = []
        """what was sent; TLS 1.2 needs to know more of it"""
        self._switched = False
        self._explicit = b""
        self._secrets: dict[str, bytes] = {}
        self._client_random = b""
        self.established: Established | None = None
        """set once it is complete; :meth:`rest` has what came behind it"""

    def receive(self, data: bytes) -> None:
        """Take bytes from the network, however they are cut."""
        self._received += data

    @property
    def waiting_bytes(self) -> int:
        """How much was received and not looked at yet."""
        return len(self._received)

    @property
    def has_record(self) -> bool:
        """Whether :meth:`step` has something to do. True also for what cannot be TLS, so that it says so."""
        received = self._received
        if len(received) < HEADER_BYTES:
            return False
        size = HEADER_BYTES + int.from_bytes(received[3:5], "big")
        return len(received) >= size or not self._is_record_header(size)

    def start(self) -> None:
        """Toward a backend: make the first flight. :raises HandshakeFailed: OpenSSL cannot"""
        self._advance()

    def step(self) -> None:
        """Feed OpenSSL the next record, which is there whole. This is the work that costs CPU.

        :raises HandshakeFailed: it failed; :meth:`take_output` has the alert that says so to the peer
        """
        record = self._next()
        if record[0] == CHANGE_CIPHER_SPEC and self._object is not None:
            # It is followed by another one: asking OpenSSL now costs, and gets nothing.
            self._incoming.write(record)
            if not self.has_record:
                return
            record = self._next()
        if self._choose is None:
            self._note_hello(record, 0, len(record))
        elif self._object is None:
            record = self._hold(record)
            if not record:
                return
        self._incoming.write(record)
        self._advance()

    def _next(self) -> bytes:
        """Take the next record. :raises HandshakeFailed: it is none, or one too many"""
        received = self._received
        size = HEADER_BYTES + int.from_bytes(received[3:5], "big")
        if not self._is_record_header(size):
            raise self._no_tls(size)
        self._records += 1
        self._bytes += size
        if self._records > MOST_RECORDS or self._bytes > MOST_BYTES:
            raise HandshakeFailed(TOO_LARGE, f"a handshake of {self._records} records, {self._bytes} bytes")
        record = bytes(received[:size])
        del received[:size]
        return record

    def _hold(self, record: bytes) -> bytes:
        """Wait for a whole ClientHello, which says which context is used. :returns: all its records once they are there

        Until then a connection costs little more than a plain one: OpenSSL has not heard of it.
        """
        hello = self._client_hello
        if len(record) == HEADER_BYTES:
            raise HandshakeFailed(PROTOCOL_ERROR, "an empty record in a handshake")  # RFC 8446 5.1
        self._held += record
        hello += record[HEADER_BYTES:]
        if len(hello) >= HEAD_BYTES:
            size = HEAD_BYTES + int.from_bytes(hello[1:HEAD_BYTES], "big")
            if hello[0] == CLIENT_HELLO and len(hello) < size <= MOST_BYTES:
                return b""
        elif record[0] == HANDSHAKE:
            return b""
        self.server_name = server_name_of(bytes(hello))
        self._client_random = bytes(hello[_RANDOM_AT : _RANDOM_AT + 32])
        assert self._choose is not None
        self._object = self._choose(self.server_name).wrap_bio(self._incoming, self._outgoing, True)
        records, self._held = self._held, b""
        hello.clear()
        return records

    def take_output(self) -> bytes:
        """What is to be sent now, after a failure, too."""
        output, self._output = self._output, b""
        return output

    def rest(self) -> bytes:
        """What came behind the handshake: records, the last of which may not be whole."""
        return bytes(self._received)

    def _advance(self) -> None:
        tls = self._object
        assert tls is not None
        failure: HandshakeFailed | None = None
        complete = False
        try:
            tls.do_handshake()
            complete = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            failure = failure_of(error)
        finally:
            self._secrets.update(self._key_log.take())
        output = self._outgoing.read()
        if output:
            self._output += output
            self._flights.append(output)
        if failure is not None:
            raise failure from None
        if complete:
            self._complete(tls, output)

    def _look_at(self, output: bytes) -> None:
        """Find what a session of TLS 1.2 needs of the records that are sent."""
        at = 0
        while at < len(output):
            size = HEADER_BYTES + int.from_bytes(output[at + 3 : at + 5], "big")
            kind = output[at]
            if kind == CHANGE_CIPHER_SPEC:
                self._switched = True
            elif kind == HANDSHAKE:
                if self._switched and not self._explicit:
                    self._explicit = output[at + HEADER_BYTES : at + HEADER_BYTES + 8]  # RFC 5288 3
                elif self._choose is not None:
                    self._note_hello(output, at, size)
            at += size

    def _note_hello(self, data: bytes, at: int, size: int) -> None:
        """Keep the beginning of the server's first message, which has its random. It may be cut into many records."""
        hello = self._server_hello
        if data[at] == HANDSHAKE and len(hello) < _RANDOM_AT + 32:
            hello += data[at + HEADER_BYTES : at + size]
            while hello.startswith(b"\0\0\0\0"):
                del hello[:4]  # a HelloRequest, which a client ignores now (RFC 5246 7.4.1.1)

    def _complete(self, tls: ssl.SSLObject, output: bytes) -> None:
        cipher = tls.cipher()
        version = tls.version()
        suite = SUITES.get(cipher[0]) if cipher is not None else None
        if cipher is None or suite is None or self._incoming.pending:
            raise HandshakeFailed(FAILED, f"a handshake that ends with {version} and {cipher and cipher[0]}")
        role = DIALLED if self._choose is None else ACCEPTED
        try:
            secrets = self._secrets
            if version == "TLSv1.3":
                # A server's last step sends its tickets, with the keys of the session (RFC 8446 4.6.1).
                sent = _records_of(output, APPLICATION_DATA) if role == ACCEPTED else 0
                cells = session_of_tls13(suite, role, secrets[CLIENT_TRAFFIC], secrets[SERVER_TRAFFIC], sent)
            else:
                for flight in self._flights:
                    self._look_at(flight)
                client_random, server_random = self._randoms()
                explicit = self._explicit if "GCM" in cipher[0] else b""
                cells = session_of_tls12(suite, role, secrets[MASTER], client_random, server_random, explicit)
        except (KeyError, ValueError) as error:
            raise HandshakeFailed(FAILED, f"the keys of a handshake did not come: {error!r}") from None
        finally:
            self._secrets = {}
        certificate = tls.getpeercert(True)
        client_fields = b""
        if certificate is not None and role == ACCEPTED:
            client_fields = fields_of(certificate, tls.getpeercert() or {})
        self.established = Established(
            cells,
            (version or "")[4:],
            cipher[0],
            tls.selected_alpn_protocol(),
            self.server_name,
            certificate,
            bool(tls.session_reused),
            client_fields,
        )
        self._object = None
        self._flights.clear()

    def _randoms(self) -> tuple[bytes, bytes]:
        """Those of client and server. :raises ValueError: they are not where they belong"""
        ours = self._client_random
        hello = self._server_hello
        if self._choose is None:
            ours = self._flights[0][HEADER_BYTES + _RANDOM_AT : HEADER_BYTES + _RANDOM_AT + 32]
        if len(ours) != 32 or len(hello) < _RANDOM_AT + 32 or hello[0] != SERVER_HELLO:
            raise ValueError("no hello")
        return ours, bytes(hello[_RANDOM_AT : _RANDOM_AT + 32])

    def _is_record_header(self, size: int) -> bool:
        """Whether what was received begins with a record's header. :param size: that it says, itself included"""
        received = self._received
        if received[1] != 3 or size > MAX_RECORD_BYTES:
            return False
        if self._records:
            return CHANGE_CIPHER_SPEC <= received[0] <= APPLICATION_DATA
        # A backend that refuses our hello answers with an alert, which says why.
        return received[0] == HANDSHAKE or (received[0] == ALERT and self._choose is None)

    def _no_tls(self, size: int) -> HandshakeFailed:
        if not self._records:
            if self._received.startswith(_METHODS):
                return HandshakeFailed(PLAIN_HTTP, "plain HTTP on a port for TLS")
            if self._received.startswith(b"HTTP/"):
                return HandshakeFailed(PLAIN_HTTP, "the backend speaks plain HTTP on this port")
            return HandshakeFailed(NOT_TLS, "the first bytes are not those of TLS")
        return HandshakeFailed(PROTOCOL_ERROR, f"a record of type {self._received[0]} with {size} bytes")


def _records_of(data: bytes, kind: int) -> int:
    """How many records of a type there are in ``data``, which are whole."""
    at = found = 0
    while at < len(data):
        found += data[at] == kind
        at += HEADER_BYTES + int.from_bytes(data[at + 3 : at + 5], "big")
    return found
