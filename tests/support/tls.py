"""TLS clients for tests, on the stream of :mod:`tests.support.raw`: each end of it is seen, record by record."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from tests.support.deadline import within
from tests.support.raw import BUFFER_BYTES, Connection


class _Writer:
    """What :class:`Connection` needs of an ``asyncio.StreamWriter``."""

    def __init__(self, client: TlsConnection, raw: asyncio.StreamWriter) -> None:
        self._client = client
        self._raw = raw

    def write(self, data: bytes) -> None:
        self._client.tls.write(data)
        self._client.flush()

    def write_eof(self) -> None:
        self._client.close_notify()
        self._raw.write_eof()

    async def drain(self) -> None:
        await self._raw.drain()

    def get_extra_info(self, name: str) -> Any:
        return self._raw.get_extra_info(name)

    @property
    def transport(self) -> Any:
        return self._raw.transport

    def close(self) -> None:
        self._client.stop()
        self._raw.close()

    async def wait_closed(self) -> None:
        await self._raw.wait_closed()


class TlsConnection(Connection):
    """A client's connection with TLS."""

    def __init__(self, context: ssl.SSLContext, name: str | None, raw: Connection) -> None:
        self.raw = raw
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, False, name)
        self.end: str | None = None
        """how the gateway ended it: ``close_notify``, ``fin`` without one, or ``reset``"""
        self.shut = asyncio.Event()
        """set once FIN came, behind close_notify or not"""
        self.pace = 0
        """how many bytes go into a TCP segment; 0 for no limit"""
        self._reading: asyncio.Task[None] | None = None
        super().__init__(asyncio.StreamReader(BUFFER_BYTES), _Writer(self, raw.writer))  # type: ignore[arg-type]  # as good

    async def shake(self, early: bytes = b"") -> None:
        """Make the handshake.

        :param early: goes along with its last message
        :raises ssl.SSLError: it fails
        :raises ConnectionError: the gateway ends it
        """

        async def shaking() -> None:
            while True:
                try:
                    self.tls.do_handshake()
                except ssl.SSLWantReadError:
                    self.flush()
                    data = await self.raw.reader.read(BUFFER_BYTES)
                    if not data:
                        raise ConnectionResetError("the gateway ended the handshake") from None
                    self.incoming.write(data)
                else:
                    self.tls.write(early)
                    self.flush()
                    return

        try:
            await within(shaking(), "a TLS handshake")
        except ssl.SSLError:
            self.flush()  # an alert
            raise
        self._reading = asyncio.create_task(self._read())

    def flush(self) -> None:
        """Send what OpenSSL has sealed."""
        data = self.outgoing.read()
        for at in range(0, len(data), self.pace or len(data) or 1):
            self.raw.writer.write(data[at : at + (self.pace or len(data))])

    def close_notify(self) -> None:
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()

    def stop(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        data = b"\0"
        while data:
            if self.end is None:
                self._open()
            try:
                data = await self.raw.reader.read(BUFFER_BYTES)
            except ConnectionError as error:
                self.end = self.end or "reset"
                self.reader.set_exception(error)
                return
            self.incoming.write(data)
        self.shut.set()
        if self.end is None:
            self.end = "fin"
            self.reader.feed_eof()

    def _open(self) -> None:
        """Read what there is."""
        while True:
            try:
                data = self.tls.read(BUFFER_BYTES)
            except ssl.SSLWantReadError:
                self.flush()  # an answer to a KeyUpdate
                return
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self.end = str(error.reason)
                self.reader.feed_eof()
                return
            if not data:
                self.end = "close_notify"
                self.reader.feed_eof()
                return
            self.reader.feed_data(data)


def trusting(ca: Any, version: str | None = None, suites: str | None = None) -> ssl.SSLContext:
    """A client's context. :param ca: PEM file; ``version`` is ``1.2`` or ``1.3``"""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["http/1.1"])
    if version is not None:
        found = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
        context.minimum_version = context.maximum_version = found
    if suites is not None:
        context.set_ciphers(suites)
    return context
