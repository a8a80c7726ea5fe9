"""Learns how long a silence each path tolerates, and so after which silence a tunnel on it must be pinged.

A *path* is a route, one side of it and a network: everything between the gateway and the clients of that network, or
between the gateway and one backend. A device that cuts idle connections is on the path, so that all tunnels of a path
provide evidence and profit from it.

The evidence is ordinary traffic. A silence that ended in an answer is tolerated. A connection that ended at a silence,
or an answer that never came after one, bounds the tolerated silence from above. The rules:

1. The interval starts at 25 s, assumed to be safe. What is proven is the longest silence that was answered, and the
   interval is 0.8 of that, or the most that the configuration allows once that much is proven itself.
2. Only a scout tries more: one tunnel of a path, for one silence, chosen when it has just been silent for a whole
   interval. It tries half as much again as is proven; where something failed already, the geometric mean of what is
   proven and what failed, until they are within a quarter of each other. A scout's time is limited: its tunnel may be
   used meanwhile, which proves nothing.
3. A failure beyond what is proven is believed at once. A cut at silence s names the cutoff: the interval is 0.8 s at
   most. An unanswered Ping only bounds it: the interval is 0.8 of what is proven, and where nothing is, the least that
   is allowed, from which scouts climb quickly. A second failure that agrees confirms the cutoff: a cut within 5 % or
   0.5 s, or an unanswered silence within a factor of 1.5. What fails together counts once. Until the cutoff is
   confirmed a scout tries it again, which tells clients that left from those that were cut.
4. A failure after a silence that is proven only raises a doubt: a client may have left. Four of them overturn what was
   proven, if no answer to as long a silence came between, and if they are unanswered, or cuts of one length, as three
   quarters of the latest cuts must be. Clients that leave do so after any silence, or are found missing while others
   answer; and all connections to a backend that restarts end within a second, which counts once.
5. A network may hide several limits. Five cuts of one length overturn what was proven even if others were answered
   after longer silences, up to eight for each cut. Where more than one in four intervals ends unanswered, the path goes
   back to 25 s for four hours.
6. A confirmed cutoff is tried again by a scout after 30 minutes, and after twice as long each time, up to a day. An
   answer to a silence 5 % beyond it makes it forgotten.

Error rates, as ``python -m tests.tunnels.path_simulation 100`` measures them (networks of 50 clients, of which 2 %
leave each minute, half of them without a word; two and a half hours, a hundred times):

- Once a cutoff is learned, 0.009 % of silences are cut, mostly those of scouts that try it again. Intervals settle at
  0.64 to 0.80 of the cutoff. Where nothing cuts, the maximum is reached in 12 minutes; in 24 in one of twenty cases.
- A cutoff that is none is learned once in 550 hours of a network. Mostly that costs half an hour of more Pings.
- A cutoff that became laxer was noticed within an hour and a half in 99 of 100 cases. In the other one the scout left
  by chance when it would have been cut before.

What it cannot see: where less than a quarter of a network's clients is cut, and silently, they go on being cut. Where
the maximum is the cutoff, to some hundredths of a second, a few in a thousand silences are cut.

The anchors are Tencent Mars, whose clients lengthen their heartbeat step by step, settle below the first failure and
try again days later, and RFC 5780 (4.6), which bisects a NAT's binding lifetime with bindings made for that. Here many
connections share a path, so one of them can risk what the others profit from; and they leave, so that a failure alone
means little.

Pure: no clock, no I/O. Times are ints in nanoseconds, ``now`` of ``CLOCK_MONOTONIC``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gateway.tunnels.learning.path import CUT, START_NS, UNANSWERED, Bounds, Path, State

__all__ = ["CUT", "MAX_PATHS", "START_NS", "UNANSWERED", "Bounds", "Key", "Learner", "State"]

MAX_PATHS = 4096

Key = tuple[int, int, int]  # number of the route, side (CLIENT or BACKEND_SIDE of layout.py), number of the network


class Learner:
    """The paths of one worker.

    Pass the same ``bounds`` object for all tunnels of a side of a route: it is compared by identity first. It may
    change at any time: what was learned is kept and bounded anew.
    """

    def __init__(self) -> None:
        self._paths: OrderedDict[Key, Path] = OrderedDict()  # least recently used first
        self._dropped: set[Key] = set()
        self._news: set[Key] = set()
        self._shortest: dict[tuple[int, int], tuple[int, int | None]] | None = None

    def interval(self, key: Key, bounds: Bounds) -> int:
        """The interval for the first silence of a tunnel that opens."""
        return self._path(key, bounds).interval_ns

    def common_interval(self, key: Key, bounds: Bounds) -> int:
        """The interval for all tunnels of a path but its scout. Does not count as use of the path."""
        path = self._paths.get(key)
        if path is None:
            return max(bounds.min_ns, min(START_NS, bounds.max_ns))
        if path.bounds != bounds:
            self._bind(key, path, bounds)
        return path.interval_ns

    def answered(self, key: Key, bounds: Bounds, silence_ns: int, now: int) -> int:
        """Something was sent to a side, or came from it, after a silence, and that side is there.

        :param silence_ns: how long nothing had been sent on that side's connection, either way
        :returns: the interval for this tunnel's next silence: the common one, or a longer one if it is to scout
        """
        path = self._paths.get(key)
        if path is None or path.bounds is not bounds:
            path = self._path(key, bounds)
        else:
            self._paths.move_to_end(key)
        if silence_ns > path.proven_ns or silence_ns >= path.doubt_ns:
            before = path.interval_ns
            if path.answer(bounds, silence_ns, now):
                self._note(key, path, before)
        if silence_ns >= path.full_ns:
            path.answered_ns = now
            path.answers += 1
            if now >= path.scout_ns:
                self._news.add(key)
                return path.send_scout(bounds, now)
        return path.interval_ns

    def cut(self, key: Key, bounds: Bounds, silence_ns: int, how: int, now: int) -> None:
        """A tunnel ended without a Close frame from that side.

        :param silence_ns: CUT: how long nothing had been sent on that side's connection, either way, when it ended.
            UNANSWERED: how long nothing had been sent before the Ping, or the other bytes, that no answer came to. A
            reset that comes instead of the answer belongs here: the connection was gone before
        :param how: CUT or UNANSWERED
        :param now: for UNANSWERED: ``pong_timeout_ns`` after the Ping, about
        """
        path = self._path(key, bounds)
        before = path.interval_ns
        if path.fail(bounds, silence_ns, how, now):
            self._note(key, path, before)

    def changed(self) -> set[Key]:
        """Paths whose common interval dropped since the last call: live tunnels must be pinged sooner."""
        dropped, self._dropped = self._dropped, set()
        return dropped

    # --- other workers ------------------------------------------------------------------------------------------------

    def news(self) -> set[Key]:
        """Paths with news for the other workers since the last call."""
        news, self._news = self._news, set()
        return news

    def export(self, key: Key) -> State | None:
        """What is known of a path, as a tuple of ints; None if it has been forgotten."""
        path = self._paths.get(key)
        return None if path is None else path.export()

    def adopt(self, key: Key, state: Iterable[int], now: int) -> None:
        """Learn what another worker exported. That is not news again, but may lower the interval."""
        path = self._paths.get(key) or self._add(key)
        before = path.interval_ns
        path.adopt(State(*state), now)
        if path.interval_ns < before:
            self._dropped.add(key)
        self._shortest = None

    # --- what is shown ------------------------------------------------------------------------------------------------

    def learned_cutoff(self, key: Key) -> int | None:
        """The cutoff of a path, where one is confirmed."""
        path = self._paths.get(key)
        return (path.learned_cutoff_ns or None) if path is not None else None

    def shortest(self, route: int, side: int) -> tuple[int, int | None] | None:
        """The shortest common interval among a side's paths, and the shortest cutoff learned; None without paths."""
        if self._shortest is None:
            self._shortest = self._find_shortest()
        return self._shortest.get((route, side))

    def _find_shortest(self) -> dict[tuple[int, int], tuple[int, int | None]]:
        found: dict[tuple[int, int], tuple[int, int | None]] = {}
        for (route, side, _), path in self._paths.items():
            if path.bounds is None:
                continue
            interval, cutoff = found.get((route, side), (path.interval_ns, None))
            learned = path.learned_cutoff_ns
            if learned and (cutoff is None or learned < cutoff):
                cutoff = learned
            found[route, side] = min(interval, path.interval_ns), cutoff
        return found

    # --- paths --------------------------------------------------------------------------------------------------------

    def _path(self, key: Key, bounds: Bounds) -> Path:
        path = self._paths.get(key)
        if path is None:
            path = self._add(key)
        else:
            self._paths.move_to_end(key)
        if path.bounds != bounds:
            self._bind(key, path, bounds)
        return path

    def _add(self, key: Key) -> Path:
        if len(self._paths) >= MAX_PATHS:
            self._paths.popitem(last=False)
        path = self._paths[key] = Path()
        self._shortest = None
        return path

    def _bind(self, key: Key, path: Path, bounds: Bounds) -> None:
        is_new = path.bounds is None
        before = path.interval_ns
        path.bind(bounds)
        if path.interval_ns < before and not is_new:
            self._dropped.add(key)
        self._shortest = None

    def _note(self, key: Key, path: Path, before: int) -> None:
        if path.interval_ns < before:
            self._dropped.add(key)
        if path.interval_ns != before or path.cutoff_ns:
            self._news.add(key)
            self._shortest = None
