"""Scores of weighted rendezvous hashing: of several members, the one with the lowest score has a key.

A score is ``-log2(hash) / weight``: a member's share of the lowest scores is then its share of the weights. All
arithmetic is on integers, logarithms too, as those of C libraries differ in the last bit.
"""

_FRACTION = 40
_STEPS = 256


def score(value: int, weight: int) -> int:
    """``-log2((value + 1/2) / 2**64) / weight``.

    Logarithms are in units of ``2**-40``, and on lines between :data:`_STEPS` places of an octave: they are off by less
    than a thousandth.

    :param value: hash of the key and the member, in 64 bits
    """
    odd = 2 * value + 1
    bits = odd.bit_length()
    mantissa = odd << (65 - bits)  # from 2**64 to 2**65
    step = (mantissa >> 56) - _STEPS
    low = _LOG2[step]
    log2 = low + ((_LOG2[step + 1] - low) * (mantissa >> 24 & 0xFFFF_FFFF) >> 32)
    return ((((66 - bits) << _FRACTION) - log2) << 16) // weight


def _log2(numerator: int, denominator: int) -> int:
    """The binary logarithm of a fraction from 1 to 2 in units of ``2**-40``, rounded down: bit by bit, by squaring."""
    x = (numerator << 96) // denominator
    found = 0
    for bit in range(_FRACTION - 1, -1, -1):
        x = x * x >> 96
        if x >= 2 << 96:
            x >>= 1
            found |= 1 << bit
    return found


_LOG2 = [*(_log2(_STEPS + step, _STEPS) for step in range(_STEPS)), 1 << _FRACTION]
