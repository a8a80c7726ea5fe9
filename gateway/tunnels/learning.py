"""Learns how long a silence each path tolerates, and says after which silence a tunnel is to be pinged."""

from __future__ import annotations

from collections import OrderedDict

from gateway.tunnels.learning_path import CUT, START_NS, UNANSWERED, Bounds, Path, State

__all__ = ["CUT", "MAX_PATHS", "START_NS", "UNANSWERED", "Bounds", "Key", "Learner", "State"]

MAX_PATHS = 4096

Key = tuple[int, int, int]  # number of the route, side, network


class Learner:
    def __init__(self) -> None:
        self._paths: OrderedDict[Key, Path] = OrderedDict()
        self._dropped: set[Key] = set()
        self._news: set[Key] = set()
        self._shortest: dict[tuple[int, int], tuple[int, int | None]] | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def interval(self, key: Key, bounds: Bounds, now: int) -> int:
        return self._path(key, bounds).interval_ns

    def common_interval(self, key: Key, bounds: Bounds) -> int:
        path = self._paths.get(key)
        if path is None:
            return max(bounds.min_ns, min(START_NS, bounds.max_ns))
        if path.bounds != bounds:
            self._bind(key, path, bounds)
        return path.interval_ns

    def answered(self, key: Key, bounds: Bounds, silence_ns: int, now: int) -> int:
        path = self._paths.get(key)
        if path is None or path.bounds is not bounds:
            path = self._path(key, bounds)
        else:
            self._paths.move_to_end(key)
        if silence_ns > path.proven_ns or silence_ns >= path.doubt_ns:
            before = path.interval_ns
            path.answer(silence_ns, now)
            self._note(key, path, before)
        if silence_ns >= path.full_ns:
            path.answered_ns = now
            if now >= path.scout_ns:
                self._news.add(key)
                return path.scout(now)
        return path.interval_ns

    def cut(self, key: Key, bounds: Bounds, silence_ns: int, how: int, now: int) -> None:
        path = self._path(key, bounds)
        before = path.interval_ns
        path.fail(silence_ns, how, now)
        self._note(key, path, before)

    def changed(self) -> set[Key]:
        dropped, self._dropped = self._dropped, set()
        return dropped

    def news(self) -> set[Key]:
        news, self._news = self._news, set()
        return news

    def export(self, key: Key) -> State | None:
        path = self._paths.get(key)
        return None if path is None else path.export()

    def adopt(self, key: Key, state: tuple[int, ...], now: int) -> None:
        path = self._paths.get(key) or self._add(key)
        before = path.interval_ns
        path.adopt(State(*state))
        if path.interval_ns < before:
            self._dropped.add(key)
        self._shortest = None

    def shortest(self, route: int, side: int) -> tuple[int, int | None] | None:
        if self._shortest is None:
            self._shortest = self._find_shortest()
        return self._shortest.get((route, side))

    def _find_shortest(self) -> dict[tuple[int, int], tuple[int, int | None]]:
        found: dict[tuple[int, int], tuple[int, int | None]] = {}
        for (route, side, _), path in self._paths.items():
            if path.bounds is None:
                continue
            interval, cutoff = path.interval_ns, path.learned_cutoff_ns or None
            if (known := found.get((route, side))) is not None:
                interval = min(interval, known[0])
                cutoff = min(cutoff or known[1] or 0, known[1] or cutoff or 0) or None
            found[route, side] = interval, cutoff
        return found

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
        path = self._paths[key] = Path()
        if len(self._paths) > MAX_PATHS:
            self._paths.popitem(last=False)
        self._shortest = None
        return path

    def _bind(self, key, path, bounds):
        before = path.interval_ns
        is_new = path.bounds is None
        path.bind(bounds)
        if not is_new and path.interval_ns < before:
            self._dropped.add(key)
        self._shortest = None

    def _note(self, key: Key, path: Path, before: int) -> None:
        if path.interval_ns < before:
            self._dropped.add(key)
        if path.interval_ns != before or path.cutoff_ns:
            self._news.add(key)
            self._shortest = None

    def learned_cutoff(self, key: Key) -> int:
        path = self._paths.get(key)
        return 0 if path is None else path.learned_cutoff_ns
