"""TLS handshakes with OpenSSL over the kernel in memory: sockets that take little, clients that leave."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.config.address import Address
from gateway.config.certificates import read_pair
from gateway.config.settings import Certificate, Listener, ListenerTls
from tests.support.certificates import Authority
from tests.support.tls import trusting

from .exchange_steps import GET_1
from .messages import answer, post
from .sockets import Peer
from .worker import Worker

pytestmark = pytest.mark.either_build
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def settings(authority: Authority) -> ListenerTls:
    files = authority.issue("localhost", kind="rsa")
    pair = read_pair(str(files.cert), str(files.key))
    return ListenerTls((Certificate(pair.names, pair.kind, pair.chain, pair.key),), "1.2", None, True)


@pytest.fixture
def worker(settings: ListenerTls) -> Iterator[Worker]:
    with Worker() as worker:
        listener = Listener(Address("10.0.0.9", 443), tls=settings, proxy_protocol=False)
        worker.edge.use_tls(worker.edge.prepare([listener]), [listener])
        worker.listener.use(worker.edge.entrance(listener))
        yield worker


class Client:
    """A client with TLS, and the backend that answers it."""

    def __init__(self, worker: Worker, context: ssl.SSLContext, room: int = 0) -> None:
        self.worker = worker
        self.peer = worker.client(room=room)
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, False, "localhost")
        self.plain = b""
        self.backends: list[Peer] = []
        worker.kernel.on_connect = self._connect
        worker.kernel.connect_to(worker.listening, self.peer)

    def _connect(self, address: object, peer: Peer) -> int:
        self.backends.append(peer)
        return 0

    def hear(self, most: int = 1 << 30) -> None:
        """Take what the gateway has sent."""
        self.peer.take(most)
        self.incoming.write(bytes(self.peer.received))
        self.peer.received.clear()

    def turn(self, most: int = 1 << 30) -> None:
        """Everybody does what can be done. :param most: bytes that the client takes"""
        self.worker.turn()
        self.hear(most)
        for backend in self.backends:
            if b"\r\n\r\n" in backend.received and not backend.said_all:
                backend.received.clear()
                backend.send(answer(b"/1"))

    def shake(self, early: bytes = b"", most: int = 1 << 30, turns: int = 4000) -> None:
        """Make the handshake. :param early: is sent with its last message"""
        for _ in range(turns):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.turn(most)
            else:
                if early:
                    self.tls.write(early)
                self.flush()
                return
        raise AssertionError("the handshake does not get on")

    def flush(self) -> None:
        data = self.outgoing.read()
        if data:
            self.peer.send(data)

    def read_until(self, text: bytes, most: int = 1 << 30, turns: int = 4000) -> None:
        for _ in range(turns):
            self.turn(most)
            with contextlib.suppress(ssl.SSLWantReadError):
                self.plain += self.tls.read(1 << 20)
            if text in self.plain:
                return
        raise AssertionError(f"no {text!r} in {self.plain!r}")

    def leave(self) -> None:
        """Go away; nothing must be left."""
        worker = self.worker
        if not self.peer.gone:
            self.peer.close()
        for backend in self.backends:
            if not backend.gone:
                backend.close()
        worker.end()
        assert not worker.kernel.mistakes
        assert not [record.getMessage() for record in worker.failures.records]
        assert not worker.leaks()
        assert not len(worker.edge.tls.turns)
        assert not len(worker.edge.tls_wire)


@VERSIONS
@pytest.mark.parametrize(("room", "most"), [(0, 1 << 30), (1000, 700), (100, 30)])
def test_a_socket_that_takes_little(worker: Worker, authority: Authority, version: str, room: int, most: int) -> None:
    client = Client(worker, trusting(authority.ca, version), room)
    client.shake(most=most)
    client.tls.write(GET_1)
    client.flush()
    client.read_until(b"answer to /1", most)
    client.leave()
    (line,) = [line for line in worker.log.lines if line["event"] == "http"]
    assert line["status"] == 200


@VERSIONS
@pytest.mark.parametrize("room", [0, 60])
def test_a_large_request_behind_the_handshake(worker: Worker, authority: Authority, version: str, room: int) -> None:
    """More than is kept: it is read on when the handshake is complete."""
    client = Client(worker, trusting(authority.ca, version), room)
    body = b"x" * 300_000
    client.shake(early=post(b"/1", body), most=50)
    client.read_until(b"answer to /1")
    client.leave()


def _fin(client: Client) -> None:
    client.peer.close()


def _reset(client: Client) -> None:
    client.peer.reset()


def _late(client: Client) -> None:
    client.worker.pass_time(11)


def _stop(client: Client) -> None:
    client.worker.edge.close_idle()
    for connection in client.worker.edge._connections():
        connection.shut_down()


@VERSIONS
@pytest.mark.parametrize("end", [_fin, _reset, _late, _stop])
@pytest.mark.parametrize("room", [0, 50])
@pytest.mark.parametrize("turns", range(7))
def test_an_end_at_any_time(
    worker: Worker, authority: Authority, version: str, end: Callable[[Client], None], room: int, turns: int
) -> None:
    client = Client(worker, trusting(authority.ca, version), room)
    for _ in range(turns):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.flush()
        client.turn(20 if room else 1 << 30)
    end(client)
    for _ in range(3):
        worker.turn()
    client.leave()


def test_the_alert_of_a_failure_arrives(worker: Worker, authority: Authority, tmp_path: Path) -> None:
    context = trusting(authority.ca, "1.2", "ECDHE-ECDSA-AES128-GCM-SHA256")  # the gateway has an RSA key alone
    client = Client(worker, context)
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        client.shake(turns=10)
    client.leave()
    worker.edge.batch.flush()
    (line,) = [line for line in worker.log.lines if line["event"] == "tls_handshake"]
    assert (line["result"], line["server_name"]) == ("no_shared_cipher", "localhost")
