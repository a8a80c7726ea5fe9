"""The probe itself: runs the planner's rounds of tunnels."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Sequence
from typing import Protocol

from gateway.probe.outcomes import Cut, Failed, Outcome, Rung
from gateway.probe.planner import Kind, Planner, Verdict
from gateway.probe.report import Path, Report
from gateway.probe.target import Target
from gateway.probe.tunnel import CannotOpen, Tunnel, hold, open_tunnel

# A server or a proxy may limit the rate of connections.
_OPENING_AT_ONCE = 4
_RETRIES_AFTER_SECONDS = (1.0, 2.0, 4.0)

_FIRST_PINGS = 3

_ASLEEP_SECONDS = 1.0


class Watcher(Protocol):
    """Receives the progress of a probe."""

    def round_begins(self, number: int, kind: Kind, rungs: Sequence[Rung], seconds: float) -> None:
        """Called when a round begins. :param seconds: how long it takes at most, if the server is silent"""

    def tunnel_ended(self, rung: Rung, outcome: Outcome) -> None:
        """Called with the outcome of each tunnel."""


class Probe:
    """One probe of the path to a target."""

    def __init__(
        self,
        target: Target,
        max_seconds: float,
        pong_timeout_seconds: float,
        context: ssl.SSLContext | None,
        watcher: Watcher,
    ) -> None:
        """
        :param max_seconds: the longest silence to try
        :param pong_timeout_seconds: how long the answer to a Ping may take
        :param context: None for a target without TLS
        """
        self.planner = Planner(max_seconds, pong_timeout_seconds)
        self._target = target
        self._max = max_seconds
        self._pong_timeout = pong_timeout_seconds
        self._context = context
        self._watcher = watcher
        self._path = Path(target.url)
        self._address: tuple[str, int] | None = None
        self._opening = asyncio.Semaphore(_OPENING_AT_ONCE)
        self._left: set[asyncio.Task[None]] = set()
        self._began = time.monotonic()
        self._asleep = _asleep_seconds()

    async def run(self) -> None:
        """Probe. :meth:`report` returns the result, even after this was cancelled.

        :raises CannotOpen: no tunnel can be opened, or none can be used
        """
        await self._first()
        self.planner = Planner(self._max, self._pong_timeout, self._path.rtt_seconds or 0.0)
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.planner.longest_seconds):
                while rungs := self.planner.next_round(time.monotonic() - began):
                    await self._round(rungs)
        except TimeoutError:
            pass  # a server that sends something at times makes rounds longer; report what is known by now
        failures = [outcome for _, _, outcome in self.planner.evidence.seen if isinstance(outcome, Failed)]
        if failures and len(failures) == len(self.planner.evidence.seen):
            raise CannotOpen(f"only the first tunnel could be used: {failures[-1].reason}")

    def report(self, interrupted: bool = False) -> Report:
        """Return what is known so far."""
        return Report(
            self._path,
            self.planner.verdict() if self.planner.rounds else Verdict(0.0),
            self._max,
            self.planner.rounds,
            time.monotonic() - self._began,
            interrupted,
            _asleep_seconds() - self._asleep > _ASLEEP_SECONDS,
            list(self.planner.evidence.seen),
        )

    async def _first(self) -> None:
        """Learn about the path and the server from a first tunnel that is not held silent."""
        for attempt in (1, 2):
            tunnel = await open_tunnel(self._target, self._address, self._context)
            try:
                rtt = await self._round_trip(tunnel)
                if tunnel.endpoint.broken:
                    raise CannotOpen(tunnel.endpoint.broken)
                if tunnel.end is not None:
                    raise CannotOpen(f"the tunnel is ended as soon as it is open{_how(tunnel)}")
                self._address = tunnel.peer
                self._path = _path(self._target, tunnel, rtt)
            finally:
                await tunnel.close()
            if rtt is not None or attempt == 2:
                return

    async def _round_trip(self, tunnel: Tunnel) -> float | None:
        """Return the fastest round trip of a few Pings, in seconds; None if one is not answered."""
        fastest = math.inf
        for number in range(_FIRST_PINGS):
            began = time.monotonic()
            await tunnel.ping(self._pong_timeout)
            if len(tunnel.endpoint.pongs) <= number:
                return None
            fastest = min(fastest, time.monotonic() - began)
        return fastest

    async def _round(self, rungs: list[Rung]) -> None:
        longest = max(rung.seconds for rung in rungs) + self._pong_timeout
        self._watcher.round_begins(self.planner.rounds, self.planner.kind, rungs, longest)
        async with asyncio.TaskGroup() as group:
            self._left = {group.create_task(self._play(rung)) for rung in rungs}

    async def _play(self, rung: Rung) -> None:
        try:
            tunnel = await self._open()
        except CannotOpen as error:
            self._note(rung, Failed(str(error)))
            return
        outcome: Outcome | None = None
        try:
            outcome = await hold(tunnel, rung, self._pong_timeout, self._path.answers_pings)
            self._note(rung, outcome)
        finally:
            if isinstance(outcome, Cut):
                await tunnel.abort()
            else:
                await tunnel.close()

    def _note(self, rung: Rung, outcome: Outcome) -> None:
        """Record an outcome, in a tunnel's task; cancel the other tasks if they cannot add anything."""
        task = asyncio.current_task()
        assert task is not None
        self._left.discard(task)
        self.planner.note(rung, outcome)
        self._watcher.tunnel_ended(rung, outcome)
        if self.planner.settled:
            for each in self._left:
                each.cancel()

    async def _open(self) -> Tunnel:
        for pause in (*_RETRIES_AFTER_SECONDS, None):
            try:
                async with self._opening:
                    return await open_tunnel(self._target, self._address, self._context)
            except CannotOpen:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError


def _path(target: Target, tunnel: Tunnel, rtt_seconds: float | None) -> Path:
    head = tunnel.endpoint.head
    assert head is not None
    host, port = tunnel.peer
    names = [*head.values(b"server"), *head.values(b"via")]
    subprotocol = head.first.get(b"sec-websocket-protocol")
    return Path(
        target.url,
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        tuple(name.decode("latin-1") for name in names),
        None if subprotocol is None else subprotocol.decode("latin-1"),
        rtt_seconds is not None,
        rtt_seconds,
    )


def _how(tunnel: Tunnel) -> str:
    assert tunnel.end is not None
    if tunnel.end.by != "close_frame":
        return f", by {'an RST' if tunnel.end.by == 'reset' else 'a FIN'} without Close"
    reason = f" ({tunnel.endpoint.close_reason})" if tunnel.endpoint.close_reason else ""
    return f", by a Close frame with code {tunnel.endpoint.close_code}{reason}"


def _asleep_seconds() -> float:
    """Return how long this machine has been suspended since it booted, during which the event loop's clock stops."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
