"""Keys leave OpenSSL by the callback or through the pipe, and for each context by the one that it can have."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading

import pytest

from gateway.edge.tls import callback, secrets
from gateway.edge.tls.contexts import client_context, load_pair, server_context
from gateway.edge.tls.handshake import Handshake
from gateway.edge.tls.secrets import KeyLog
from gateway.protocol.tls.keylog import CLIENT_TRAFFIC, MASTER, SERVER_TRAFFIC
from tests.support.certificates import Authority, Files

from .ends import Peer, first_flight, shake

compiled = pytest.mark.skipif(not callback.COMPILED, reason="only the compiled build has a callback")
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def p256(authority: Authority) -> Files:
    return authority.issue("localhost", file="p256")


def server(key_log: KeyLog, pair: Files) -> ssl.SSLContext:
    context = server_context(key_log)
    load_pair(context, pair.cert.read_text(), pair.key.read_text())
    return context


def client(authority: Authority, version: ssl.TLSVersion = V13) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.maximum_version = version
    return context


def logged(key_log: KeyLog, context: ssl.SSLContext, peer: Peer) -> dict[str, bytes]:
    """What a handshake logs, made by OpenSSL alone."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    found = {}
    for _ in range(3):
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        incoming.write(peer.take_output())
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        found.update(key_log.take())
        peer.incoming.write(outgoing.read())
    assert tls.version()
    return found


@compiled
@pytest.mark.parametrize("version", [V12, V13])
def test_the_callback_logs_what_is_of_use(authority: Authority, p256: Files, version: ssl.TLSVersion) -> None:
    key_log = KeyLog()
    context = server(key_log, p256)
    assert context.keylog_filename is None
    found = logged(key_log, context, Peer(client(authority, version)))
    assert found.keys() == ({MASTER} if version == V12 else {CLIENT_TRAFFIC, SERVER_TRAFFIC})
    assert {len(secret) for secret in found.values()} == {48}
    assert key_log.take() == {}


@compiled
def test_both_ways_have_the_same_secrets(authority: Authority, p256: Files) -> None:
    """The server logs to the callback, and the client of the same handshake to the pipe."""
    called, piped = KeyLog(), KeyLog(uses_callback=False)
    ours = client_context(piped)
    ours.load_verify_locations(authority.ca)
    try:
        assert logged(called, server(called, p256), Peer(ours)) == piped.take()
    finally:
        piped.close()


@compiled
def test_a_context_that_is_not_certain_uses_the_pipe(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, p256: Files
) -> None:
    """Beside one that is."""
    key_log = KeyLog()
    certain = server(key_log, p256)
    monkeypatch.setattr(secrets, "pointer_of", lambda context: None)
    uncertain = server(key_log, p256)
    assert str(uncertain.keylog_filename).startswith("/proc/self/fd/")
    try:
        for context in (uncertain, certain, uncertain):
            ours = Handshake(key_log, choose=lambda name, context=context: context)  # type: ignore[misc]  # its default
            shake(ours, Peer(client(authority)))
            assert ours.established is not None
    finally:
        key_log.close()


@compiled
def test_threads_do_not_mix(authority: Authority, p256: Files) -> None:
    """Each thread takes what its own handshakes have logged."""
    key_log = KeyLog()
    context = server(key_log, p256)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(first_flight(client(authority)))
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()  # it has logged the server's secret
    elsewhere: list[dict[str, bytes]] = []
    thread = threading.Thread(
        target=lambda: elsewhere.append(logged(key_log, context, Peer(client(authority)))), daemon=True
    )
    thread.start()
    thread.join()
    assert elsewhere[0].keys() == {CLIENT_TRAFFIC, SERVER_TRAFFIC}
    here = key_log.take()
    assert here.keys() == {SERVER_TRAFFIC}
    assert here[SERVER_TRAFFIC] != elsewhere[0][SERVER_TRAFFIC]


def test_the_pipe_is_opened_when_it_is_needed(p256: Files) -> None:
    before = len(os.listdir("/proc/self/fd"))
    key_log = KeyLog(uses_callback=False)
    assert len(os.listdir("/proc/self/fd")) == before
    assert key_log.take() == {}
    context = server(key_log, p256)
    assert key_log.take() == {}
    del context
    key_log.close()
    assert len(os.listdir("/proc/self/fd")) == before
