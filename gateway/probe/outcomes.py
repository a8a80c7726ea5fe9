"""One rung of the ladder, a tunnel that is left silent for some time, and what can become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

EndedBy: TypeAlias = Literal["fin", "reset", "silence", "close_frame"]
"""``silence``: nobody said anything, and a Ping was not answered any more."""

Role: TypeAlias = Literal["ladder", "between", "low", "high", "busy"]
"""Why a rung is tried. ``low`` and ``high`` stand at the edges of the bracket that is to be confirmed; ``busy`` is kept
from being silent, and shows whether tunnels end by their age."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A tunnel to open. ``seconds`` is its silence before the Ping; of a busy one, its age at the end."""

    seconds: float
    role: Role
    ping_every_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Survived:
    """The tunnel was alive after a silence: its Ping was answered."""

    silence_seconds: float
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The tunnel was ended after a silence, or is dead since."""

    silence_seconds: float
    age_seconds: float
    ended_by: EndedBy
    by_itself: bool
    """whether the end came unasked; else it showed when a Ping was sent"""
    close_code: int | None = None
    close_reason: str = ""
    longest_gap_seconds: float = 0.0
    """the longest silence before that one, which the server itself had ended"""

    @property
    def way(self) -> tuple[EndedBy, bool, int | None]:
        """How it ended: what two ends of one cause have in common."""
        return self.ended_by, self.by_itself, self.close_code


@dataclass(frozen=True, slots=True)
class Talked:
    """The server sent something over and over, and the tunnel was never silent for longer than this."""

    silence_seconds: float
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The tunnel could not be opened, or is no WebSocket: it tells nothing about silence."""

    reason: str


Outcome: TypeAlias = Survived | Cut | Talked | Failed
