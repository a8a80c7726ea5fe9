"""OpenSSL at both ends of a connection, without sockets: what sessions and records are compared with."""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import tempfile
from array import array
from pathlib import Path

from gateway.protocol.tls.keylog import CLIENT_TRAFFIC, MASTER, SERVER_TRAFFIC, secrets_of
from gateway.protocol.tls.schedule import SUITES, session_of_tls12, session_of_tls13
from gateway.protocol.tls.state import ACCEPTED, DIALLED, OUT_SEQ
from tests.support.certificates import Authority

TLS13_SUITES = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
TLS12_SUITES = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
]


def records_of(data: bytes) -> list[bytes]:
    """Cut whole records apart."""
    found = []
    while data:
        size = 5 + int.from_bytes(data[3:5], "big")
        found.append(data[:size])
        data = data[size:]
    return found


class Pair:
    """A client and a server of OpenSSL that have shaken hands; ``accepted`` and ``dialled`` are the sessions of our
    making that stand for the one and for the other."""

    def __init__(self, suite: str, tickets: int = 0) -> None:
        """:param tickets: that the server sends (TLS 1.3). The client has them unread"""
        with tempfile.TemporaryDirectory() as directory:
            authority = Authority(Path(directory))
            files = authority.issue("localhost", kind="rsa" if "-RSA-" in suite else "p256")
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.load_cert_chain(files.cert, files.key)
            client = ssl.create_default_context(cafile=str(authority.ca))
            log = Path(directory) / "keys"
            server.keylog_filename = str(log)
            if suite in TLS13_SUITES:
                server.minimum_version = ssl.TLSVersion.TLSv1_3
                choose_tls13_suite(client, suite)
                server.num_tickets = tickets
            else:
                client.maximum_version = ssl.TLSVersion.TLSv1_2
                client.set_ciphers(suite)
            self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname="localhost")
            self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
            flights = self._shake_hands(suite)
            secrets = secrets_of(log.read_bytes())
        found = self.client.cipher()
        assert found is not None
        assert found[0] == suite
        self.suite = SUITES[found[0]]
        self.accepted: array[int]
        self.dialled: array[int]
        if suite in TLS13_SUITES:
            keys = secrets[CLIENT_TRAFFIC], secrets[SERVER_TRAFFIC]
            self.accepted = session_of_tls13(self.suite, ACCEPTED, *keys, out_seq=tickets)
            self.dialled = session_of_tls13(self.suite, DIALLED, *keys)
        else:
            client_flight, server_flight = flights
            explicit = {}
            for name, flight in (("client", client_flight), ("server", server_flight)):
                finished = records_of(flight)[-1]
                explicit[name] = finished[5:13] if "GCM" in suite else b""
            master = secrets[MASTER]
            randoms = records_of(client_flight)[0][11:43], records_of(server_flight)[0][11:43]
            self.accepted = session_of_tls12(self.suite, ACCEPTED, master, *randoms, explicit["server"])
            self.dialled = session_of_tls12(self.suite, DIALLED, master, *randoms, explicit["client"])
        assert self.accepted[OUT_SEQ] == (tickets if suite in TLS13_SUITES else 1)

    def _shake_hands(self, suite: str) -> tuple[bytes, bytes]:
        """:returns: all that the client has sent, and all that the server has"""
        sent = [b"", b""]
        done = [False, False]
        while not all(done):
            for n, (end, out) in enumerate(((self.client, self.to_server), (self.server, self.to_client))):
                if not done[n]:
                    try:
                        end.do_handshake()
                        done[n] = True
                    except ssl.SSLWantReadError:
                        pass
                data = out.read()
                sent[n] += data
                out.write(data)
        return sent[0], sent[1]

    def client_sends(self, data: bytes) -> bytes:
        """What OpenSSL's client puts on the wire for ``data``."""
        return _sends(self.client, self.to_server, data)

    def server_sends(self, data: bytes) -> bytes:
        return _sends(self.server, self.to_client, data)

    def client_reads(self, wire: bytes) -> bytes:
        """What OpenSSL's client makes of bytes from the wire. :raises ssl.SSLError: they are not valid"""
        return _reads(self.client, self.to_client, wire)

    def server_reads(self, wire: bytes) -> bytes:
        return _reads(self.server, self.to_server, wire)


def _sends(end: ssl.SSLObject, out: ssl.MemoryBIO, data: bytes) -> bytes:
    left = memoryview(data)
    while left:
        left = left[end.write(left) :]
    return out.read()


def _reads(end: ssl.SSLObject, into: ssl.MemoryBIO, wire: bytes) -> bytes:
    into.write(wire)
    found = b""
    while True:
        try:
            data = end.read(65536)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            return found
        found += data


def choose_tls13_suite(context: ssl.SSLContext, suite: str) -> None:
    """Offer one suite of TLS 1.3 only. Python's ssl has no call for that before 3.15, so ask OpenSSL itself."""
    library = ctypes.CDLL(_ssl.__file__)
    pointer = ctypes.c_void_p.from_address(id(context) + 2 * ctypes.sizeof(ctypes.c_void_p))  # behind the object's head
    assert library.SSL_CTX_set_ciphersuites(pointer, suite.encode()) == 1
