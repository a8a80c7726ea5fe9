"""Two ends of a handshake in memory: the gateway's :class:`Handshake` on one, Python's ``ssl`` on the other."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from gateway.edge.tls.handshake import Handshake


class Peer:
    """The other end: OpenSSL, by ``ssl``."""

    def __init__(self, context: ssl.SSLContext, server_side: bool = False, name: str | None = "localhost") -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, None if server_side else name)
        self.done = False

    def receive(self, data: bytes) -> None:
        """Take what the gateway sends, and get on with the handshake. :raises ssl.SSLError: as OpenSSL does"""
        self.incoming.write(data)
        if not self.done:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                return
            self.done = True

    def take_output(self) -> bytes:
        """What it sends."""
        return self.outgoing.read()


def whole(data: bytes) -> list[bytes]:
    """As it comes."""
    return [data]


def shake(ours: Handshake, peer: Peer, cut: Callable[[bytes], list[bytes]] = whole) -> None:
    """Make a handshake. What the peer says behind it is left in ``ours.rest()``.

    :param cut: how TCP cuts what the peer sends
    :raises HandshakeFailed: it failed on the gateway's end
    :raises ssl.SSLError: on the peer's
    """
    while ours.established is None or not peer.done:
        before = ours.established, peer.done
        sent = ours.take_output()
        peer.receive(sent)
        received = peer.take_output()
        for piece in cut(received):
            ours.receive(piece)
            while ours.established is None and ours.has_record:
                ours.step()
        assert sent or received or before != (ours.established, peer.done), "neither end gets on"


def first_flight(context: ssl.SSLContext, name: str | None = "localhost") -> bytes:
    """A client's first message."""
    peer = Peer(context, name=name)
    peer.receive(b"")
    return peer.take_output()


def cut_messages(data: bytes, size: int) -> bytes:
    """Put each ``size`` bytes of the handshake messages in ``data``, which are not protected, into a record alone."""
    out = bytearray()
    at = 0
    while at < len(data):
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        for start in range(at + 5, end, size):
            piece = data[start : min(start + size, end)]
            out += data[at : at + 3] + len(piece).to_bytes(2, "big") + piece
        at = end
    return bytes(out)
