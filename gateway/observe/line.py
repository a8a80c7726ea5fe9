"""Lines of JSON, written with no Python object between. The pure build of ``line.pyx``, which has no such way."""

from __future__ import annotations

from collections.abc import Sequence

COMPILED = False
NOT_DECIMAL = 255


def json_line(
    literals: list[bytes], decimals: bytes, when: str, values: Sequence[str | int | float | None]
) -> str | None:
    """Return a line: literals with the time and the values between them; None if it is to be formatted in another way.

    :param literals: what precedes the time, each value, and the end
    :param decimals: of each value: how many are shown; ``NOT_DECIMAL`` to show it as it is
    :param when: ASCII
    :param values: as many as ``decimals``
    """
    return None
