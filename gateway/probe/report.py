"""The result of a probe: as a sentence for people, and as JSON for scripts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.probe.culprits import Culprit, named, suspects
from gateway.probe.outcomes import Cut, Failed, Outcome, Rung, Survived
from gateway.probe.planner import Verdict
from gateway.probe.words import between, duration, interval

PING_SHARE = 0.8
"""Send a Ping after this share of the longest tolerated silence."""

_MOST_CULPRITS = 3


@dataclass(frozen=True, slots=True)
class Path:
    """What the first tunnel showed about the path."""

    url: str
    address: str = ""
    """the address that was connected to"""
    server: tuple[str, ...] = ()
    """values of the answer's Server and Via"""
    subprotocol: str | None = None
    answers_pings: bool = True
    rtt_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A verdict, and how it was reached."""

    path: Path
    verdict: Verdict
    max_seconds: float
    rounds: int = 0
    elapsed_seconds: float = 0.0
    interrupted: bool = False
    slept: bool = False
    """whether this machine was suspended during the probe"""
    outcomes: list[tuple[int, Rung, Outcome]] = field(default_factory=list)

    # --- for scripts ------------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Return the report with seconds as numbers. ``cutoff_seconds`` is null if no silent tunnel was cut."""
        verdict = self.verdict
        bracket = None
        if verdict.high_seconds is not None:
            bracket = {"low": _down(verdict.low_seconds), "high": _up(verdict.high_seconds)}
        failures = self._failures()
        return {
            "url": self.path.url,
            "address": self.path.address,
            "cutoff_seconds": bracket,
            "ended_by": verdict.ended_by,
            "close_code": verdict.close_code,
            "close_reason": verdict.close_reason or None,
            "ends_by_itself": None if verdict.ended_by is None else verdict.by_itself,
            "lifetime_seconds": bracket if verdict.by_age else None,
            "ping_after_seconds": self.ping_after_seconds,
            "tolerated_seconds": None if verdict.by_age or not self._tolerated else _down(self._tolerated),
            "confirmed": verdict.confirmed,
            "interrupted": self.interrupted,
            "culprits": [
                {
                    "name": culprit.name,
                    "setting": culprit.setting or None,
                    "default_seconds": culprit.seconds,
                    "fits": fits,
                }
                for culprit, fits in self._culprits()
            ],
            "server": list(self.path.server),
            "subprotocol": self.path.subprotocol,
            "answers_pings": self.path.answers_pings,
            "server_sends_every_seconds": _rounded(verdict.server_sends_every_seconds),
            "rtt_seconds": _rounded(self.path.rtt_seconds, 6),
            "max_seconds": self.max_seconds,
            "rounds": self.rounds,
            "tunnels_opened": len(self.outcomes) - len(failures) + 1,
            "tunnels_failed": len(failures),
            "elapsed_seconds": _rounded(self.elapsed_seconds, 1),
            "notes": list(self.notes()),
            "tunnels": [_tunnel(*seen) for seen in self.outcomes],
        }

    @property
    def ping_after_seconds(self) -> float | None:
        """The silence after which to send a Ping: 0.8 of the longest that is known to be tolerated.

        None if none is known, and if tunnels end because of their age, since Pings do not help then.
        """
        after = math.floor(PING_SHARE * self._tolerated * 10) / 10
        return after if after and not self.verdict.by_age else None

    @property
    def _tolerated(self) -> float:
        # Without Pongs, a tunnel may be dead although no end was seen.
        return self.verdict.low_seconds if self.path.answers_pings else 0.0

    # --- for people -------------------------------------------------------------------------------------------------

    def sentence(self) -> str:
        """Return the verdict, its possible cause, and advice."""
        verdict = self.verdict
        if verdict.high_seconds is None:
            return "; ".join(filter(None, (self._no_cut(), self._advice())))
        bracket = between(verdict.low_seconds, verdict.high_seconds)
        if verdict.by_age:
            what = f"every tunnel is ended at an age {bracket}, {self._manner()}, even while Pings keep it busy"
        else:
            what = f"silence is cut {bracket}, {self._manner()}"
        return "; ".join(filter(None, (what, self._who(), self._advice())))

    def notes(self) -> Iterator[str]:
        """Yield what a reader should know besides the sentence."""
        verdict, path = self.verdict, self.path
        if self.interrupted:
            yield "interrupted: this is what was known by then"
        elif not verdict.confirmed:
            yield (
                "not confirmed: there was no time left, or tunnels of the same silence fared differently"
                if self._has_outcomes()
                else "not confirmed: no tunnel could be held for long enough"
            )
        if verdict.server_sends_every_seconds is not None:
            yield (
                f"the server itself sends something at least every {duration(verdict.server_sends_every_seconds)}: "
                "no longer silence could be measured, and as long as it does, none occurs"
            )
        if not path.answers_pings:
            yield "the server answers no Ping: had the path silently forgotten a tunnel, that could not be seen"
        if verdict.chance_ends:
            yield f"{_tunnels(verdict.chance_ends)} ended earlier, by chance: longer silences were survived"
        if verdict.survivors_beyond:
            yield (
                f"{_tunnels(verdict.survivors_beyond)} survived a longer silence: the limit is not sharp, or there is "
                "more than one path"
            )
        if failures := self._failures():
            yield f"{_tunnels(len(failures))} could not be used: {failures[-1].reason}"
        if self.slept:
            yield "this machine slept meanwhile, which ends tunnels, too: probe again"

    def _no_cut(self) -> str:
        tolerated = self.verdict.low_seconds
        if not tolerated:
            return "nothing is known yet"
        if self.path.answers_pings:
            return f"nothing is cut by a silence of up to {duration(tolerated)}"
        return f"no tunnel was ended within {duration(tolerated)} of silence"

    def _manner(self) -> str:
        verdict = self.verdict
        match verdict.ended_by, verdict.by_itself:
            case "close_frame", _:
                reason = f" ({verdict.close_reason})" if verdict.close_reason else ""
                return f"by a Close frame with code {verdict.close_code}{reason}"
            case "fin", True:
                return "by a FIN without Close"
            case "fin", False:
                return "silently, and a FIN without Close answers what is sent later"
            case "reset", True:
                return "by an RST"
            case "reset", False:
                return "silently, and an RST answers what is sent later"
        return "silently: what is sent later gets no answer"

    def _who(self) -> str:
        culprits = list(self._culprits())
        fitting = [culprit.sentence for culprit, fits in culprits if fits]
        if fitting:
            more = len(fitting) - _MOST_CULPRITS
            return ", or ".join(fitting[:_MOST_CULPRITS]) + (f" (and {more} more)" if more > 0 else "")
        if culprits:
            culprit = culprits[0][0]
            changeable = f"whose `{culprit.setting}` may be that" if culprit.setting else "which may be configured so"
            return f"no known default is that long; the answer names {culprit.name}, {changeable}"
        if self.verdict.ended_by == "close_frame":
            return "that is the server, or a proxy that speaks WebSocket"
        return "no known default is that long"

    def _advice(self) -> str:
        if self.verdict.by_age:
            return "Pings do not help: send messages, or open a new tunnel in time"
        if self.verdict.high_seconds is None and self.verdict.server_sends_every_seconds is not None:
            return ""  # the server keeps it alive
        after = PING_SHARE * self._tolerated
        return f"ping every {interval(after)}" if after >= 0.1 else ""

    def _culprits(self) -> Iterator[tuple[Culprit, bool]]:
        """Yield the culprits whose default fits (true), then those that the answer names (false)."""
        verdict = self.verdict
        if verdict.high_seconds is None or verdict.ended_by is None:
            return
        way = (verdict.ended_by, verdict.by_itself)
        fitting = suspects(verdict.low_seconds, verdict.high_seconds, way, verdict.by_age, self.path.server)
        for culprit in fitting:
            yield culprit, True
        for culprit in named(way, verdict.by_age, self.path.server):
            if culprit not in fitting:
                yield culprit, False

    def _failures(self) -> list[Failed]:
        return [outcome for _, _, outcome in self.outcomes if isinstance(outcome, Failed)]

    def _has_outcomes(self) -> bool:
        return len(self.outcomes) > len(self._failures())


def _tunnel(number: int, rung: Rung, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"round": number, "role": rung.role, "asked_seconds": _rounded(rung.seconds)}
    match outcome:
        case Failed(reason):
            return row | {"result": "failed", "reason": reason}
        case Cut():
            result: str = outcome.ended_by
            row["by_itself"] = outcome.by_itself
        case _:
            result = "survived" if isinstance(outcome, Survived) else "server_sends"
    return row | {
        "result": result,
        "silence_seconds": _rounded(outcome.silence_seconds),
        "age_seconds": _rounded(outcome.age_seconds),
    }


def _tunnels(number: int) -> str:
    return f"{number} tunnel{'s' * (number != 1)}"


def _down(seconds: float) -> float:
    return math.floor(seconds * 100) / 100


def _up(seconds: float) -> float:
    return math.ceil(seconds * 100) / 100


def _rounded(seconds: float | None, digits: int = 3) -> float | None:
    return None if seconds is None else round(seconds, digits)
