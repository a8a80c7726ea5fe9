"""How much work a regular expression can be made to do: Python's ``re`` tries one way after another (backtracking).

A client chooses the path, so an expression that takes long on some paths lets it stall a worker. The bound here holds
for every path of :data:`LONGEST_PATH` characters. It is found on the position automaton of the expression (Glushkov
1961): each state is one place in the expression that takes a character, and ``re`` follows one run of it after
another. What is counted is how many steps all runs on one path can have together:

- from a state that a run cannot come back to, the runs that can follow on the same character add up;
- in a loop, two runs that both stay in it on the same character double with every turn: that is refused;
- a loop that can be left on a character on which it can also go on is left at any of the path's characters.

An expression is judged more severely than ``re`` may deserve, never less. docs/decisions/regular-expressions.md says
why it is not matched by another engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from re import _compiler, _parser  # type: ignore[attr-defined]  # the only parser of just this syntax
from typing import Any, NamedTuple

from gateway.config.errors import BadValue

LONGEST_PATH = 1024
"""Characters of a path that an expression is tried on."""

MOST_STEPS = 16 * LONGEST_PATH * LONGEST_PATH
"""What an expression may take on such a path: one loop in front of another is all right, a third one is not."""

_MOST_POSITIONS = 400
_MOST_EDGES = 20_000
_EVERY = (1 << 256) - 1
_HINT = "`[^/]*` in place of `.*`, no repeat inside of a repeat, alternatives that begin differently"


class _Part(NamedTuple):
    """A part of an expression. Counts say in how many ways ``re`` gets there."""

    empty: int
    """ways in which it matches nothing"""
    first: dict[int, int]
    """positions that it can begin with"""
    last: dict[int, int]
    """positions that it can end with"""


_NOTHING = _Part(1, {}, {})


def check_cost(pattern: str) -> None:
    """Check that a regular expression takes a bounded time on every path.

    :param pattern: one that compiles
    :raises BadValue: it can take too long, or it cannot be told
    """
    try:
        steps = most_steps(pattern)
    except RecursionError:
        raise BadValue("the regular expression is too large", "a simpler one, or several routes") from None
    if steps > MOST_STEPS:
        raise BadValue("the regular expression may take too long on some paths", _HINT)


def most_steps(pattern: str) -> int:
    """Return a bound for the steps that a search takes on a path of :data:`LONGEST_PATH` characters.

    :raises BadValue: there is none, or it cannot be told
    """
    tree = _parser.parse(pattern)
    return _Automaton(tree).most_steps(anchored=_is_anchored(tree))


class _Automaton:
    """The position automaton of an expression."""

    def __init__(self, tree: Any) -> None:
        self._state = tree.state
        self._characters: list[int] = []
        """of each position: a bit for each character that it takes"""
        self._next: list[dict[int, int]] = []
        """of each position: those that can come next, and in how many ways"""
        self._edges = 0
        self._known: dict[object, int] = {}
        self._whole = self._sequence(tree, tree.state.flags)

    # --- the expression's parts ---------------------------------------------------------------------------------------

    def _sequence(self, items: Iterable[tuple[Any, Any]], flags: int) -> _Part:
        whole = _NOTHING
        for operation, argument in items:
            whole = self._joined(whole, self._part(operation, argument, flags))
        return whole

    def _part(self, operation: Any, argument: Any, flags: int) -> _Part:
        match str(operation):
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                return self._position(operation, argument, flags)
            case "AT":
                return _NOTHING  # it takes no character, and only cuts runs short
            case "BRANCH":
                return _either([self._sequence(branch, flags) for branch in argument[1]])
            case "SUBPATTERN":
                _, added, removed, inner = argument
                return self._sequence(inner, (flags | added) & ~removed)
            case "ATOMIC_GROUP":
                return self._sequence(argument, flags)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, body = argument
                return self._repeat(least, most, body, flags)
            case "GROUPREF" | "GROUPREF_IGNORE" | "GROUPREF_EXISTS":
                raise BadValue(
                    "a reference to a group inside the regular expression takes too long on some paths", _HINT
                )
            case "ASSERT" | "ASSERT_NOT" | "FAILURE":
                raise BadValue("looking ahead or behind takes too long on some paths", "no (?=, (?!, (?<= or (?<!")
            case name:
                raise BadValue(f"{name.lower()} in a regular expression is not known here", _HINT)

    def _position(self, operation: Any, argument: Any, flags: int) -> _Part:
        if len(self._characters) >= _MOST_POSITIONS:
            raise BadValue(
                "the regular expression is too large", f"at most {_MOST_POSITIONS} characters, repeats counted"
            )
        position = len(self._characters)
        self._characters.append(self._taken(operation, argument, flags))
        self._next.append({})
        return _Part(0, {position: 1}, {position: 1})

    def _taken(self, operation: Any, argument: Any, flags: int) -> int:
        """The characters of a path that ``re`` itself takes there. Paths are matched as Latin-1."""
        key = (str(operation), repr(argument), flags)
        if key not in self._known:
            item = _parser.SubPattern(self._state, [(operation, argument)])
            takes = _compiler.compile(item, flags).fullmatch
            self._known[key] = sum(1 << code for code in range(256) if takes(chr(code)))
        return self._known[key]

    def _repeat(self, least: int, most: int, body: Any, flags: int) -> _Part:
        def once() -> _Part:
            part = self._sequence(body, flags)
            if part.empty and most > 1:
                raise BadValue("the regular expression repeats what may be empty", _HINT)
            return part

        if most == _parser.MAXREPEAT:
            last = once()
            self._link(last.last, last.first)
            parts = [*(once() for _ in range(least - 1)), last if least else last._replace(empty=1)]
            # The looping copy was made first; its place among the others is of no matter to its edges.
            whole = _NOTHING
            for part in parts:
                whole = self._joined(whole, part)
            return whole
        rest = _NOTHING
        for _ in range(most - least):
            rest = self._joined(once(), rest)
            rest = rest._replace(empty=rest.empty + 1)
        for _ in range(least):
            rest = self._joined(once(), rest)
        return rest

    def _joined(self, one: _Part, other: _Part) -> _Part:
        self._link(one.last, other.first)
        return _Part(
            one.empty * other.empty,
            _sum(one.first, other.first, one.empty),
            _sum(other.last, one.last, other.empty),
        )

    def _link(self, lasts: dict[int, int], firsts: dict[int, int]) -> None:
        self._edges += len(lasts) * len(firsts)
        if self._edges > _MOST_EDGES:
            raise BadValue("the regular expression is too large", "a simpler one, or several routes")
        for last, ways in lasts.items():
            followers = self._next[last]
            for first, more in firsts.items():
                followers[first] = followers.get(first, 0) + ways * more

    # --- the steps ----------------------------------------------------------------------------------------------------

    def most_steps(self, anchored: bool) -> int:
        """:param anchored: whether it is tried at the beginning of the path only"""
        start = len(self._characters)
        self._characters.append(0 if anchored else _EVERY)
        self._next.append(dict(self._whole.first))
        if not anchored:
            self._next[start][start] = 1  # the search begins anew at each character
        ends = {**dict.fromkeys(range(start + 1), 0), **self._whole.last}
        ends[start] = self._whole.empty
        classes = _representatives(self._characters)
        steps: dict[int, int] = {}
        for loop in _components(self._next, start):
            inside = set(loop)
            most = max(self._leaving(state, inside, classes, steps) for state in loop)
            tried = sum(sum(self._next[state].values()) + ends[state] + 1 for state in loop)
            if len(loop) == 1 and loop[0] not in self._next[loop[0]]:
                steps[loop[0]] = most + tried
                continue
            for state in loop:
                self._check_stays_alone(state, inside)
            lasting = any(self._can_leave_or_stay(state, inside) for state in loop)
            tried = max(sum(self._next[state].values()) + ends[state] + 1 for state in loop)
            bound = LONGEST_PATH * tried + (LONGEST_PATH * most if lasting else most)
            for state in loop:
                steps[state] = bound
        return steps[start]

    def _leaving(self, state: int, inside: set[int], classes: Sequence[int], steps: dict[int, int]) -> int:
        """The most steps of all runs that leave a loop at a state, all on the same character."""
        exits = [(place, ways) for place, ways in self._next[state].items() if place not in inside]
        if not exits:
            return 0
        return max(
            sum(ways * steps[place] for place, ways in exits if self._characters[place] & character)
            for character in classes
        )

    def _check_stays_alone(self, state: int, inside: set[int]) -> None:
        """Check that at most one run stays in a loop on any character. :raises BadValue: there may be two"""
        taken = 0
        for place, ways in self._next[state].items():
            if place in inside:
                if ways > 1 or taken & self._characters[place]:
                    raise BadValue("the regular expression may take exponential time on some paths", _HINT)
                taken |= self._characters[place]

    def _can_leave_or_stay(self, state: int, inside: set[int]) -> bool:
        staying = leaving = 0
        for place in self._next[state]:
            if place in inside:
                staying |= self._characters[place]
            else:
                leaving |= self._characters[place]
        return bool(staying & leaving)


def _sum(one: dict[int, int], other: dict[int, int], times: int) -> dict[int, int]:
    """The counts of both, the others so many times."""
    if not times:
        return one
    found = dict(one)
    for key, count in other.items():
        found[key] = found.get(key, 0) + count * times
    return found


def _either(parts: Sequence[_Part]) -> _Part:
    whole = _Part(0, {}, {})
    for part in parts:
        whole = _Part(whole.empty + part.empty, _sum(whole.first, part.first, 1), _sum(whole.last, part.last, 1))
    return whole


def _is_anchored(items: Any) -> bool:
    """Whether an expression can match at the beginning of a path only."""
    for operation, argument in items:
        match str(operation):
            case "AT":
                if str(argument) in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
                    return True
            case "SUBPATTERN":
                return _is_anchored(argument[3])
            case "ATOMIC_GROUP":
                return _is_anchored(argument)
            case "BRANCH":
                return all(_is_anchored(branch) for branch in argument[1])
            case _:
                return False
    return False


def _representatives(characters: Iterable[int]) -> list[int]:
    """One character, as a bit, of each class that no position tells apart."""
    classes = [_EVERY]
    for taken in set(characters):
        classes = [part for known in classes for part in (known & taken, known & ~taken) if part]
    return [part & -part for part in classes]


def _components(edges: Sequence[dict[int, int]], start: int) -> Iterator[list[int]]:
    """Yield the strongly connected components that can be reached, each behind those that it leads to (Tarjan 1972)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    work: list[tuple[int, Iterator[int]]] = []

    def enter(state: int) -> None:
        index[state] = low[state] = len(index)
        stack.append(state)
        on_stack.add(state)
        work.append((state, iter(edges[state])))

    enter(start)
    while work:
        state, following = work[-1]
        for place in following:
            if place not in index:
                enter(place)
                break
            if place in on_stack:
                low[state] = min(low[state], index[place])
        else:
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[state])
            if low[state] == index[state]:
                component = []
                while True:
                    place = stack.pop()
                    on_stack.discard(place)
                    component.append(place)
                    if place == state:
                        break
                yield component
