"""Sessions, with vectors of the TLS working group for the PRF; the key log's lines."""

import pytest

from gateway.protocol.tls import state
from gateway.protocol.tls.keylog import secrets_of
from gateway.protocol.tls.schedule import SUITES, prf, session_of_tls12, session_of_tls13

pytestmark = pytest.mark.either_build


def test_prf_sha256():
    """P_SHA256 test vector, posted to the TLS working group's list in 2008 ("Test vectors for TLS 1.2 PRF")."""
    secret = bytes.fromhex("9bbe436ba940f017b17652849a71db35")
    seed = bytes.fromhex("a0ba9f936cda311827a6f796ffd5198c")
    assert (
        prf("sha256", secret, b"test label", seed, 100)
        .hex()
        .startswith("e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a")
    )


def test_sessions_face_each_other():
    suite = SUITES["TLS_AES_256_GCM_SHA384"]
    one = session_of_tls13(suite, state.ACCEPTED, b"c" * 48, b"s" * 48, out_seq=2)
    other = session_of_tls13(suite, state.DIALLED, b"c" * 48, b"s" * 48)
    keys = slice(state.IN_IV, state.IN + state.DIRECTION_CELLS), slice(state.OUT_IV, state.OUT + state.DIRECTION_CELLS)
    assert one[keys[0]] == other[keys[1]]
    assert one[keys[1]] == other[keys[0]]
    assert (one[state.OUT_SEQ], one[state.IN_SEQ], other[state.OUT_SEQ]) == (2, 0, 0)


def test_the_explicit_nonce_goes_on_behind_that_of_the_handshake():
    suite = SUITES["ECDHE-RSA-AES128-GCM-SHA256"]
    session = session_of_tls12(
        suite, state.ACCEPTED, b"m" * 48, bytes(32), bytes(32), bytes.fromhex("ffffffffffffffff")
    )
    assert session[state.OUT_EXPLICIT] == -1
    assert session[state.OUT_SEQ] == session[state.IN_SEQ] == 1


def test_fields_are_complete():
    """Each cell of a session belongs to a field: what is not named is lost in a move to another layout."""
    cells = set()
    for name in state.FIELDS:
        at = getattr(state, name)
        size = state.SIZES.get(name, 1)
        assert not cells & set(range(at, at + size))
        cells |= set(range(at, at + size))
    assert cells == set(range(state.BURST_BYTES + 1))


def test_secrets_of_the_key_log():
    lines = b"# by somebody\nSERVER_HANDSHAKE_TRAFFIC_SECRET aa bb\nCLIENT_RANDOM 00 0102\n\nEXPORTER_SECRET 00 11\n"
    assert secrets_of(lines) == {"CLIENT_RANDOM": b"\1\2"}


@pytest.mark.parametrize("line", [b"CLIENT_RANDOM 00\n", b"CLIENT_RANDOM\n", b"CLIENT_RANDOM 00 zz\n"])
def test_other_lines_are_an_error(line):
    with pytest.raises(ValueError, match=r"secret|hexadecimal"):
        secrets_of(line)
