"""Handshakes with OpenSSL at the other end: what comes out is a session with which data can be exchanged."""

from __future__ import annotations

import ssl
from array import array

import pytest

from gateway.edge.tls.contexts import client_context, load_pair, server_context
from gateway.edge.tls.handshake import MOST_RECORDS, Established, Handshake
from gateway.edge.tls.reasons import RESULTS, HandshakeFailed
from gateway.edge.tls.secrets import KeyLog
from gateway.protocol.tls.content import NOTHING
from gateway.protocol.tls.records import Records
from tests.support.certificates import DAY, Authority, Files

from .ends import Peer, cut_messages, first_flight, shake

TLS12 = (
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "p256"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "p256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "p256"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "rsa"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "rsa"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "rsa"),
)
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def p256(authority: Authority) -> Files:
    return authority.issue("localhost", "*.example.com", file="p256")


@pytest.fixture(scope="module")
def rsa(authority: Authority) -> Files:
    return authority.issue("localhost", kind="rsa", file="rsa")


def server(key_log: KeyLog, *pairs: Files) -> ssl.SSLContext:
    context = server_context(key_log)
    for pair in pairs:
        load_pair(context, pair.cert.read_text(), pair.key.read_text())
    return context


def client(authority: Authority, version: ssl.TLSVersion = V13, suites: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["http/1.1"])
    if suites is not None:
        context.set_ciphers(suites)
    return context


def accepting(key_log: KeyLog, context: ssl.SSLContext) -> Handshake:
    return Handshake(key_log, choose=lambda name: context)


class End:
    """The gateway's end behind its handshake."""

    def __init__(self, handshake: Handshake) -> None:
        assert handshake.established is not None
        self.wire = bytearray(128 * 1024)
        self.records = Records(self.wire)
        self.cells = memoryview(handshake.established.cells)

    def send(self, data: bytes) -> bytes:
        size = self.records.seal(self.cells, 0, bytearray(data), 0, len(data), 0)
        return bytes(self.wire[:size])

    def receive(self, data: bytes) -> bytes:
        self.wire[: len(data)] = data
        sink = bytearray(len(data))
        got = self.records.open(self.cells, 0, 0, len(data), sink, 0)
        assert (self.records.used, self.records.event) == (len(data), NOTHING)
        return bytes(sink[:got])


def exchange(ours: Handshake, peer: Peer) -> None:
    """Data goes both ways."""
    end = End(ours)
    peer.incoming.write(ours.take_output())  # tickets
    behind = ours.rest()
    if behind:
        end.receive(behind)  # the same of the peer
    for number in range(3):
        data = b"%d from the gateway" % number * 500
        peer.incoming.write(end.send(data))
        got = b""
        while len(got) < len(data):
            got += peer.tls.read(len(data))
        assert got == data
        peer.tls.write(b"%d to the gateway" % number)
        assert end.receive(peer.take_output()) == b"%d to the gateway" % number


def established(handshake: Handshake) -> Established:
    assert handshake.established is not None
    return handshake.established


# --- toward clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suite", "kind"), TLS12)
def test_tls12(key_log: KeyLog, authority: Authority, request: pytest.FixtureRequest, suite: str, kind: str) -> None:
    ours = accepting(key_log, server(key_log, request.getfixturevalue(kind)))
    peer = Peer(client(authority, V12, suite))
    shake(ours, peer)
    assert established(ours)[1:] == ("1.2", suite, "http/1.1", "localhost", None, False, b"")
    exchange(ours, peer)


def test_tls13(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    ours = accepting(key_log, server(key_log, p256))
    peer = Peer(client(authority))
    shake(ours, peer)
    assert established(ours)[1:] == ("1.3", "TLS_AES_256_GCM_SHA384", "http/1.1", "localhost", None, False, b"")
    exchange(ours, peer)


@pytest.mark.parametrize("version", [V12, V13])
def test_both_kinds_of_keys_in_one_context(
    key_log: KeyLog, authority: Authority, p256: Files, rsa: Files, version: ssl.TLSVersion
) -> None:
    context = server(key_log, p256, rsa)
    for algorithm in ("ECDSA", "RSA"):
        peer = Peer(client(authority, V12, f"ECDHE-{algorithm}-AES128-GCM-SHA256"))
        ours = accepting(key_log, context)
        shake(ours, peer)
        assert established(ours).cipher == f"ECDHE-{algorithm}-AES128-GCM-SHA256"


@pytest.mark.parametrize("version", [V12, V13])
def test_a_session_is_resumed(key_log: KeyLog, authority: Authority, p256: Files, version: ssl.TLSVersion) -> None:
    """With TLS 1.2 the gateway is the first to send Finished then."""
    context = server(key_log, p256)
    their = client(authority, version)
    first = Peer(their)
    ours = accepting(key_log, context)
    shake(ours, first)
    exchange(ours, first)
    again = Peer(their)
    again.tls.session = first.tls.session
    ours = accepting(key_log, context)
    shake(ours, again)
    assert established(ours).resumed
    exchange(ours, again)


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_tcp_cuts_where_it_likes(
    key_log: KeyLog, authority: Authority, p256: Files, version: ssl.TLSVersion, size: int
) -> None:
    ours = accepting(key_log, server(key_log, p256))
    peer = Peer(client(authority, version))
    shake(ours, peer, lambda data: [data[at : at + size] for at in range(0, len(data), size)])
    exchange(ours, peer)


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_a_client_hello_in_many_records(
    key_log: KeyLog, authority: Authority, p256: Files, version: ssl.TLSVersion, size: int
) -> None:
    """The context is chosen once the message is whole."""
    names: list[str | None] = []
    context = server(key_log, p256)

    def choose(name: str | None) -> ssl.SSLContext:
        names.append(name)
        return context

    ours = Handshake(key_log, choose=choose)
    peer = Peer(client(authority, version), name="a.example.com")
    peer.receive(b"")
    ours.receive(cut_messages(peer.take_output(), size))
    while ours.has_record:
        ours.step()
    shake(ours, peer)
    assert names == ["a.example.com"]
    assert established(ours).server_name == "a.example.com"
    exchange(ours, peer)


def test_data_right_behind_the_handshake_is_left_alone(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    """A client of TLS 1.3 may send its request along with its Finished."""
    ours = accepting(key_log, server(key_log, p256))
    peer = Peer(client(authority))
    peer.receive(b"")
    ours.receive(peer.take_output())
    ours.step()
    peer.receive(ours.take_output())
    peer.tls.write(b"GET / HTTP/1.1\r\n\r\n")
    finished = peer.take_output()
    ours.receive(finished + b"\x17\x03")
    while ours.established is None:
        ours.step()
    rest = ours.rest()
    assert rest.endswith(b"\x17\x03")
    assert End(ours).receive(rest[:-2]) == b"GET / HTTP/1.1\r\n\r\n"


def test_a_client_certificate(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    context = server(key_log, p256)
    context.load_verify_locations(str(authority.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    theirs = authority.issue("device 7", client=True)
    for version in (V12, V13):
        their = client(authority, version)
        their.load_cert_chain(theirs.cert, theirs.key)
        ours = accepting(key_log, context)
        peer = Peer(their)
        shake(ours, peer)
        assert established(ours).certificate == ssl.PEM_cert_to_DER_cert(theirs.cert.read_text())
        exchange(ours, peer)


def test_a_client_that_asks_for_no_name_and_no_protocol(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    their = ssl.create_default_context(cafile=str(authority.ca))
    their.check_hostname = False
    ours = accepting(key_log, server(key_log, p256))
    shake(ours, Peer(their, name=None))
    assert established(ours)[3:5] == (None, None)


def test_a_client_that_knows_other_protocols_alone_goes_on_without(
    key_log: KeyLog, authority: Authority, p256: Files
) -> None:
    their = client(authority)
    their.set_alpn_protocols(["h2"])
    ours = accepting(key_log, server(key_log, p256))
    shake(ours, Peer(their))
    assert established(ours).alpn is None


@pytest.mark.parametrize(("group", "offered"), [("prime256v1", True), ("secp384r1", True), ("secp521r1", False)])
def test_groups(key_log: KeyLog, authority: Authority, p256: Files, group: str, offered: bool) -> None:
    their = client(authority)
    their.set_ecdh_curve(group)
    ours = accepting(key_log, server(key_log, p256))
    if offered:
        shake(ours, Peer(their))
        return
    with pytest.raises(HandshakeFailed) as failed:
        shake(ours, Peer(their))
    assert failed.value.reason == "no_shared_cipher"


# --- toward backends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("size", [1, 50, 100_000])
def test_a_backend(key_log: KeyLog, authority: Authority, p256: Files, version: ssl.TLSVersion, size: int) -> None:
    """Its tickets come behind the handshake, and are skipped."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(p256.cert, p256.key)
    theirs.maximum_version = version
    theirs.set_alpn_protocols(["http/1.1"])
    context = client_context(key_log)
    context.load_verify_locations(str(authority.ca))
    ours = Handshake(key_log, context=context, server_name="localhost")
    ours.start()
    peer = Peer(theirs, server_side=True)
    shake(ours, peer, lambda data: [data[at : at + size] for at in range(0, len(data), size)])
    found = established(ours)
    assert (found.version, found.alpn) == ("1.2" if version == V12 else "1.3", "http/1.1")
    assert found.server_name == "localhost"
    assert found.certificate == ssl.PEM_cert_to_DER_cert(p256.cert.read_text())
    exchange(ours, peer)


def test_a_backend_of_tls12_that_cuts_its_messages(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(p256.cert, p256.key)
    theirs.maximum_version = V12
    context = client_context(key_log)
    context.load_verify_locations(str(authority.ca))
    ours = Handshake(key_log, context=context, server_name="localhost")
    ours.start()
    peer = Peer(theirs, server_side=True)
    peer.receive(ours.take_output())
    flight = b"\x16\x03\x03\0\4\0\0\0\0" + cut_messages(peer.take_output(), 7)  # with a HelloRequest in front
    ours.receive(flight)
    while ours.has_record:
        ours.step()
    shake(ours, peer)
    exchange(ours, peer)


@pytest.mark.parametrize(
    ("case", "reason"),
    [("wrong name", "wrong_name"), ("expired", "expired"), ("early", "not_yet_valid"), ("foreign", "unknown_issuer")],
)
def test_a_backend_that_is_not_believed(
    key_log: KeyLog, authority: Authority, tmp_path_factory: pytest.TempPathFactory, case: str, reason: str
) -> None:
    issuer = Authority(tmp_path_factory.mktemp("foreign"), "Foreign") if case == "foreign" else authority
    theirs = issuer.issue(
        "elsewhere.example" if case == "wrong name" else "localhost",
        file=case,
        starts=DAY if case == "early" else -9 * DAY,
        ends=-DAY if case == "expired" else 9 * DAY,
    )
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(theirs.cert, theirs.key)
    context = client_context(key_log)
    context.load_verify_locations(str(authority.ca))
    ours = Handshake(key_log, context=context, server_name="localhost")
    ours.start()
    peer = Peer(server_side, server_side=True)
    with pytest.raises(HandshakeFailed) as failed:
        shake(ours, peer)
    assert failed.value.reason == reason
    assert "certificate" in str(failed.value)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):  # it is told why
        peer.receive(ours.take_output())


# --- what fails -------------------------------------------------------------------------------------------------------


def go_on(ours: Handshake, *received: bytes) -> None:
    for data in received:
        ours.receive(data)
        while ours.has_record:
            ours.step()


def failure(key_log: KeyLog, context: ssl.SSLContext, *received: bytes) -> HandshakeFailed:
    ours = accepting(key_log, context)
    with pytest.raises(HandshakeFailed) as failed:
        go_on(ours, *received)
    assert failed.value.reason in RESULTS
    return failed.value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "plain_http"),
        (b"OPTIONS * HTTP/1.1\r\n", "plain_http"),
        (b"PRI * HTTP/2.0\r\n", "plain_http"),
        (b"SSH-2.0-OpenSSH\r\n", "not_tls"),
        (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", "not_tls"),  # a ClientHello of SSL 2
        (b"\x17\x03\x03\x00\x01\x00", "not_tls"),
        (b"\x16\x02\x00\x00\x01\x01", "not_tls"),
        (b"\x16\x03\x01\xff\xff\x01", "not_tls"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "protocol_error"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "protocol_error"),
        (b"\x16\x03\x01\x00\x00", "protocol_error"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "too_large"),
        (b"\x15\x03\x01\x00\x02\x01\x00", "not_tls"),
    ],
)
def test_what_is_no_handshake(key_log: KeyLog, p256: Files, data: bytes, reason: str) -> None:
    assert failure(key_log, server(key_log, p256), data).reason == reason


def test_a_hello_that_never_ends(key_log: KeyLog, p256: Files) -> None:
    records = b"\x16\x03\x01\x00\x01\x00" * MOST_RECORDS
    assert (
        failure(key_log, server(key_log, p256), b"\x16\x03\x01\x00\x04\x01\x01\x00\x00", records).reason == "too_large"
    )


def test_an_old_version(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    hello = bytearray(first_flight(client(authority, V12)))
    hello[9:11] = b"\x03\x01"  # says TLS 1.0
    assert failure(key_log, server(key_log, p256), bytes(hello)).reason == "unsupported_version"


def test_min_version(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    context = server_context(key_log, "1.3")
    load_pair(context, p256.cert.read_text(), p256.key.read_text())
    assert failure(key_log, context, first_flight(client(authority, V12))).reason == "unsupported_version"
    ours = accepting(key_log, context)
    shake(ours, Peer(client(authority)))


def test_no_shared_suite(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    hello = first_flight(client(authority, V12, "ECDHE-ECDSA-AES128-SHA256"))  # CBC
    assert failure(key_log, server(key_log, p256), hello).reason == "no_shared_cipher"


@pytest.mark.parametrize("version", [V12, V13])
def test_a_client_that_does_not_believe_the_gateway(key_log: KeyLog, p256: Files, version: ssl.TLSVersion) -> None:
    their = ssl.create_default_context()
    their.maximum_version = version
    ours = accepting(key_log, server(key_log, p256))
    peer = Peer(their)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(ours, peer)
    with pytest.raises(HandshakeFailed, match="the peer ended the handshake: unknown ca") as failed:
        go_on(ours, peer.take_output())
    assert failed.value.reason == "rejected_by_peer"


@pytest.mark.parametrize("version", [V12, V13])
def test_a_client_without_a_certificate(
    key_log: KeyLog, authority: Authority, p256: Files, version: ssl.TLSVersion
) -> None:
    context = server(key_log, p256)
    context.load_verify_locations(str(authority.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    ours = accepting(key_log, context)
    with pytest.raises(HandshakeFailed) as failed:
        shake(ours, Peer(client(authority, version)))
    assert failed.value.reason == "no_certificate"
    assert ours.take_output(), "no alert"


def test_the_key_log_is_empty_after_each_handshake(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    context = server(key_log, p256)
    for hello in (first_flight(client(authority)), first_flight(client(authority, V12))):
        ours = accepting(key_log, context)
        ours.receive(hello)
        ours.step()
        assert key_log.take() == {}


def test_handshakes_that_alternate_do_not_mix_their_keys(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    context = server(key_log, p256)
    ends = [(accepting(key_log, context), Peer(client(authority))) for _ in range(3)]
    for ours, peer in ends:
        peer.receive(b"")
        ours.receive(peer.take_output())
        ours.step()
    for ours, peer in reversed(ends):
        shake(ours, peer)
        exchange(ours, peer)


def test_sessions_are_plain_cells(key_log: KeyLog, authority: Authority, p256: Files) -> None:
    ours = accepting(key_log, server(key_log, p256))
    shake(ours, Peer(client(authority)))
    assert isinstance(established(ours).cells, array)
    assert established(ours).cells.typecode == "q"
