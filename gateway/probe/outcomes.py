"""One rung of the ladder, which is a tunnel left silent for some time, and its possible outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

EndedBy: TypeAlias = Literal["fin", "reset", "silence", "close_frame"]
"""``silence``: nothing was received, and a Ping was not answered any more."""

Role: TypeAlias = Literal["ladder", "between", "low", "high", "busy"]
"""Why a rung is tried. ``low`` and ``high`` are the edges of the bracket to confirm; a ``busy`` tunnel is never silent,
and shows whether tunnels end because of their age."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A tunnel to open. ``seconds`` is its silence before the Ping; for a busy tunnel, its age at the end."""

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
    """The tunnel was ended after a silence, or found dead."""

    silence_seconds: float
    age_seconds: float
    ended_by: EndedBy
    by_itself: bool
    """whether the end came unprompted; otherwise it showed when a Ping was sent"""
    close_code: int | None = None
    close_reason: str = ""
    longest_gap_seconds: float = 0.0
    """the longest earlier silence, ended by the server itself"""

    @property
    def way(self) -> tuple[EndedBy, bool, int | None]:
        """How it ended, for comparing two ends: those with the same cause have the same way."""
        return self.ended_by, self.by_itself, self.close_code


@dataclass(frozen=True, slots=True)
class Talked:
    """The server kept sending, and the tunnel was never silent for longer than this."""

    silence_seconds: float
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The tunnel could not be opened, or is not a WebSocket: it proves nothing about silence."""

    reason: str


Outcome: TypeAlias = Survived | Cut | Talked | Failed
