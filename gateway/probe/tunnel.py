"""One connection through the path, and holding it silent."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gateway.probe import hints
from gateway.probe.endpoint import Endpoint, Refused
from gateway.probe.outcomes import Cut, EndedBy, Failed, Outcome, Rung, Survived, Talked
from gateway.probe.target import Target

CONNECT_SECONDS = 10.0
HANDSHAKE_SECONDS = 15.0
CLOSE_SECONDS = 1.0

# A server may greet its clients. If it sends this many times after that, it will not be silent.
_GREETING_SECONDS = 10.0
_INTERRUPTIONS = 3
_APART_SECONDS = 1.0
# Data that a server sends right before it ends a tunnel belongs to the end.
_LAST_WORDS_SECONDS = 0.5


class CannotOpen(Exception):
    """A tunnel could not be opened. ``str()`` says why, and what to do; ``status`` is the answer's."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class End:
    """How and when a tunnel ended, after ``silence_seconds``."""

    by: EndedBy
    at: float
    silence_seconds: float
    longest_gap_seconds: float
    """the longest earlier silence, ended by the server itself"""


class Tunnel(asyncio.Protocol):
    """One connection, from its handshake on. Times are from the event loop's clock, in seconds."""

    def __init__(self, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        self.endpoint = endpoint
        self.end: End | None = None
        self.refused: Refused | None = None
        self.opened_at = 0.0
        self.active_at = 0.0
        """when the latest byte was received or sent"""
        self.received_at = 0.0
        self.lost: asyncio.Future[None] = loop.create_future()
        self._now: Callable[[], float] = loop.time
        self._news = asyncio.Event()
        self._gap = 0.0  # the silence before the latest bytes
        self._longest_gap = 0.0  # of earlier silences
        self._transport: asyncio.Transport

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.active_at = self._now()
        transport.write(self.endpoint.request())

    def data_received(self, data: bytes) -> None:
        now = self._now()
        if now - self.received_at >= _LAST_WORDS_SECONDS:
            self._longest_gap, self._gap = self.longest_gap_seconds, 0.0
        self._gap = max(self._gap, now - self.active_at)
        self.active_at = self.received_at = now
        try:
            self._transport.write(self.endpoint.feed(data))
        except Refused as error:
            self.refused = error
        if not self.opened_at and self.endpoint.head is not None:
            self.opened_at, self._gap = now, 0.0
        if self.endpoint.close_code is not None:
            self._ended("close_frame", now)
        self._news.set()

    def eof_received(self) -> None:
        self._ended("fin", self._now())

    def connection_lost(self, error: Exception | None) -> None:
        reset = isinstance(error, OSError) and not isinstance(error, ssl.SSLError | TimeoutError)
        self._ended("silence" if isinstance(error, TimeoutError) else "reset" if reset else "fin", self._now())
        if not self.lost.done():
            self.lost.set_result(None)

    def _ended(self, by: EndedBy, now: float) -> None:
        if self.end is None:
            silence = now - self.active_at
            if now - self.received_at < _LAST_WORDS_SECONDS:
                self.end = End(by, now, max(silence, self._gap), self._longest_gap)
            else:
                self.end = End(by, now, silence, self.longest_gap_seconds)
        self._news.set()

    # --- operations -------------------------------------------------------------------------------------------------

    @property
    def age_seconds(self) -> float:
        return self._now() - self.opened_at

    @property
    def longest_gap_seconds(self) -> float:
        """The longest silence that the server itself ended."""
        return max(self._longest_gap, self._gap)

    @property
    def peer(self) -> tuple[str, int]:
        """The address of the other end."""
        host, port = self._transport.get_extra_info("peername")[:2]
        return host, port

    async def happening(self, until: float) -> bool:
        """Wait until data or the end arrives; false if nothing does before ``until``."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()
        happened = self._news.is_set()
        self._news.clear()
        return happened

    async def ping(self, timeout_seconds: float) -> bool:
        """Send a Ping and wait for a sign of life: its Pong, or, at the time-out, anything received after the Ping.

        If this returns false, ``end`` says whether the tunnel has ended, or just not answered.
        """
        if self.end is not None:
            return False
        payload = os.urandom(8)
        self.active_at = sent_at = self._now()
        self._transport.write(self.endpoint.ping(payload))
        deadline = sent_at + timeout_seconds
        while payload not in self.endpoint.pongs and self.end is None:
            if self._now() > deadline or not await self.happening(deadline):
                return self.received_at > sent_at
        return payload in self.endpoint.pongs

    async def close(self) -> None:
        """Send a Close, give the server a moment to answer, and close the connection."""
        try:
            if self.end is None:
                self._transport.write(self.endpoint.close())
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.shield(self.lost)
        except TimeoutError:
            pass
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
        await asyncio.shield(self.lost)


async def open_tunnel(target: Target, address: tuple[str, int] | None, context: ssl.SSLContext | None) -> Tunnel:
    """Open a tunnel.

    :param address: the address to connect to; None to resolve the target's host
    :param context: None for a connection without TLS
    :raises CannotOpen: no connection, no TLS, or no 101
    """
    host, port = address or (target.host, target.port)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, tunnel = await asyncio.get_running_loop().create_connection(
                lambda: Tunnel(Endpoint(target)),
                host,
                port,
                ssl=context,
                server_hostname=target.host if context else None,
                happy_eyeballs_delay=None if address else 0.25,
            )
    except (OSError, UnicodeError) as error:
        raise CannotOpen(hints.of_connection(target, host, port, error)) from None
    try:
        await _handshake(tunnel)
    except Refused as refused:
        raise CannotOpen(hints.of_refusal(refused), refused.status) from None
    finally:
        if not tunnel.opened_at:
            await tunnel.abort()
    return tunnel


async def _handshake(tunnel: Tunnel) -> None:
    deadline = tunnel.active_at + HANDSHAKE_SECONDS
    while not tunnel.opened_at:
        if tunnel.refused is not None:
            raise tunnel.refused
        if tunnel.end is not None:
            what = "was reset" if tunnel.end.by == "reset" else "ended"
            raise tunnel.endpoint.refusal(f"the connection {what} without a complete answer")
        if not await tunnel.happening(deadline):
            raise tunnel.endpoint.refusal(f"no complete answer arrived within {HANDSHAKE_SECONDS:g} s")


async def hold(tunnel: Tunnel, rung: Rung, pong_timeout_seconds: float, answers_pings: bool) -> Outcome:
    """Hold an open tunnel as the rung says; return the outcome.

    :param answers_pings: whether the server answers Pings; if not, a tunnel without an end counts as alive
    """
    if rung.role == "busy":
        return await _keep_busy(tunnel, rung, pong_timeout_seconds, answers_pings)
    interruptions, counted_at = 0, 0.0
    while await tunnel.happening(tunnel.active_at + rung.seconds):
        if tunnel.end is not None:
            return _cut(tunnel, tunnel.end, by_itself=True)
        if tunnel.endpoint.broken:
            return Failed(tunnel.endpoint.broken)
        age = tunnel.age_seconds
        if age > _GREETING_SECONDS and age - counted_at >= _APART_SECONDS:
            interruptions, counted_at = interruptions + 1, age
        if interruptions == _INTERRUPTIONS or age > rung.seconds + _GREETING_SECONDS:
            return Talked(tunnel.longest_gap_seconds, age)
    return await _ask(tunnel, pong_timeout_seconds, answers_pings)


async def _ask(tunnel: Tunnel, pong_timeout_seconds: float, answers_pings: bool) -> Outcome:
    silence = asyncio.get_running_loop().time() - tunnel.active_at
    if not answers_pings or await tunnel.ping(pong_timeout_seconds):
        return Survived(silence, tunnel.age_seconds)
    if tunnel.end is not None:
        return _cut(tunnel, tunnel.end, by_itself=False, silence_seconds=silence)
    if tunnel.endpoint.broken:
        return Failed(tunnel.endpoint.broken)
    return Cut(silence, tunnel.age_seconds, "silence", by_itself=False)


async def _keep_busy(tunnel: Tunnel, rung: Rung, pong_timeout_seconds: float, answers_pings: bool) -> Outcome:
    every = rung.ping_every_seconds
    old_at = tunnel.opened_at + rung.seconds
    while tunnel.age_seconds < rung.seconds:
        while await tunnel.happening(min(tunnel.active_at + every, old_at)):
            if tunnel.end is not None or tunnel.age_seconds >= rung.seconds:
                break
        alive = await tunnel.ping(pong_timeout_seconds if answers_pings else 0.0)
        if tunnel.end is not None:
            return _cut(tunnel, tunnel.end, by_itself=True)
        if tunnel.endpoint.broken:
            return Failed(tunnel.endpoint.broken)
        if answers_pings and not alive:
            return Cut(every, tunnel.age_seconds, "silence", by_itself=False)
    return Survived(every, tunnel.age_seconds)


def _cut(tunnel: Tunnel, end: End, by_itself: bool, silence_seconds: float | None = None) -> Cut:
    closed = end.by == "close_frame"
    return Cut(
        end.silence_seconds if silence_seconds is None else silence_seconds,
        end.at - tunnel.opened_at,
        end.by,
        by_itself,
        tunnel.endpoint.close_code if closed else None,
        tunnel.endpoint.close_reason if closed else "",
        end.longest_gap_seconds,
    )
