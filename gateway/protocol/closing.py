"""Close codes: which may be sent, and how metrics name them (RFC 6455 section 7.4, IANA registry)."""

from __future__ import annotations

KNOWN = frozenset((1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015))
NEVER_SENT = frozenset((1004, 1005, 1006, 1015))
"""Codes for local use, and the reserved 1004 (section 7.4.1)."""

GOING_AWAY = 1001
BROKE_PROTOCOL = 1002
TOO_LARGE = 1009
SERVICE_RESTART = 1012


_LABELS = {0: "none", **{code: str(code) for code in KNOWN}}


def may_be_sent(code: int) -> bool:
    """Whether a Close frame may carry ``code``."""
    return (code in KNOWN and code not in NEVER_SENT) or 3000 <= code <= 4999


def label(code: int) -> str:
    """How metrics name a close code: a known one as it is, ``3xxx``, ``4xxx``, ``none`` for no Close frame (0).

    Any other code an endpoint may make up is ``other``: so that a label has few values.
    """
    found = _LABELS.get(code)
    if found is not None:
        return found
    if 3000 <= code <= 4999:
        return f"{code // 1000}xxx"
    return "other"
