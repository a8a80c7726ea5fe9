"""Sizes in the configuration: `512B`, `32KiB`, `1MiB`."""

import re

from gateway.config.errors import BadValue
from gateway.config.words import found, number

_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(rf"([0-9]{{1,12}})({'|'.join(_BYTES)})")
_EXAMPLES = "such as 16KiB or 1MiB"
_OTHER_UNIT = re.compile(r"([0-9]{1,12}) ?([kKmMgG])i?[bB]?")


def parse_size(value: object, *, least_bytes: int, most_bytes: int) -> int:
    """Parse a size, a whole number and one of B, KiB, MiB, GiB; return bytes.

    :param value: the value in the file
    :param least_bytes: the smallest size allowed
    :param most_bytes: the largest size allowed
    :raises BadValue: it is not a size, or not in that range
    """
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadValue(f"expected a size, found {found(value)}", _likely(value) or _EXAMPLES)
    size_bytes = int(match[1]) * _BYTES[match[2]]
    if size_bytes < least_bytes:
        raise BadValue(f"{match[0]} is too small", f"at least {format_size(least_bytes)}")
    if size_bytes > most_bytes:
        raise BadValue(f"{match[0]} is too large", f"at most {format_size(most_bytes)}")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """Format bytes as in the configuration: `512B`, `32KiB`."""
    unit = next(unit for unit in reversed(_BYTES) if size_bytes % _BYTES[unit] == 0)
    return f"{size_bytes // _BYTES[unit]}{unit}"


SIZE_JSON_SCHEMA = {"type": "string", "pattern": f"^{_SIZE.pattern}$"}


def _likely(value: object) -> str | None:
    """Return the size that `value` was probably meant to be, if it is in nginx's format or has no unit."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = value if isinstance(value, str) else number(value)
    if re.fullmatch(r"[0-9]{1,12}", text):
        return f"with its unit: {text}KiB, or {text}B for bytes"
    if other := _OTHER_UNIT.fullmatch(text):
        return f"{other[1]}{other[2].upper()}iB"
    return None
