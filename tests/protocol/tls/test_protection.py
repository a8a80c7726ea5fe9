"""The AEAD of one record: what the two builds share."""

import pytest

from gateway.protocol.tls import protection, state
from gateway.protocol.tls.protection import Protection
from tests.protocol.tls.ends import End
from tests.protocol.tls.openssl import TLS12_SUITES, TLS13_SUITES, Pair


def test_the_compiled_build_has_the_same_constants():
    if not protection.COMPILED:
        return
    assert {name: getattr(state, name) for name in protection.SAME_AS_STATE} == protection.SAME_AS_STATE


@pytest.mark.parametrize("suite", [TLS13_SUITES[0], TLS12_SUITES[0], TLS12_SUITES[2]])
@pytest.mark.parametrize("size", range(5, 40))
def test_short_records(suite, size):
    """Shorter than a tag, or than the explicit nonce: they do not authenticate, and nothing is read behind them."""
    end = End(_session(suite))
    record = bytearray((23, 3, 3, 0, size - 5)) + bytes(size - 5)
    assert Protection().open(end.cells, 2, record, 0, size, bytearray(64), 0) == -1


_sessions = {}


def _session(suite):
    if suite not in _sessions:
        _sessions[suite] = Pair(suite).accepted
    return _sessions[suite]


def test_an_unknown_suite():
    end = End(_session(TLS13_SUITES[0]))
    end[state.SUITE] = 0
    with pytest.raises((ValueError, KeyError)):
        end.send(b"x")
