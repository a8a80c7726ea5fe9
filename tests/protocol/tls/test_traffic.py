"""Keys of a direction, with the vectors of RFC 8448: the same in both builds."""

from array import array

import pytest

from gateway.protocol.tls import state, traffic
from gateway.protocol.tls.traffic import expand_label, put_keys

SECRET = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
KEY, IV = bytes.fromhex("9f02283b6c9c07efc26bb9f2ac92e356"), bytes.fromhex("cf782b88dd83549aadf1e984")


def session():
    return array("q", bytes(8 * state.SESSION_CELLS))


def test_the_compiled_build_has_the_same_constants():
    if traffic.COMPILED:
        assert {name: getattr(state, name) for name in traffic.SAME_AS_STATE} == traffic.SAME_AS_STATE


def test_expand_label():
    """RFC 8448 section 3: the server's keys for application data."""
    assert expand_label("sha256", SECRET, b"key", 16) == KEY
    assert expand_label("sha256", SECRET, b"iv", 12) == IV


@pytest.mark.parametrize("direction", [state.IN, state.OUT])
def test_keys_are_put_where_they_belong(direction):
    cells = session()
    put_keys(cells, direction, state.AES_128_GCM, SECRET)
    expected = bytearray(8 * state.SESSION_CELLS)
    for cell, data in ((state.SECRET, SECRET), (state.KEY, KEY), (state.IV, IV)):
        at = 8 * (direction + cell)
        expected[at : at + len(data)] = data
    assert cells.tobytes() == expected


@pytest.mark.parametrize(
    ("suite", "algorithm", "key_bytes"),
    [(state.AES_128_GCM, "sha256", 16), (state.AES_256_GCM, "sha384", 32), (state.CHACHA20_POLY1305, "sha256", 32)],
)
def test_each_suite_has_its_hash_and_the_size_of_its_key(suite, algorithm, key_bytes):
    secret = bytes(range(48 if algorithm == "sha384" else 32))
    cells = session()
    put_keys(memoryview(cells), state.OUT, suite, secret)
    octets = cells.tobytes()
    assert octets[8 * state.OUT_SECRET :].startswith(secret)
    assert octets[8 * state.OUT_KEY :].startswith(expand_label(algorithm, secret, b"key", key_bytes))
    assert octets[8 * state.OUT_IV :].startswith(expand_label(algorithm, secret, b"iv", 12))
    assert not any(octets[8 * state.OUT_KEY + key_bytes : 8 * state.OUT_SECRET])


@pytest.mark.parametrize(
    ("suite", "size"), [(state.AES_128_GCM, 48), (state.AES_256_GCM, 32), (state.AES_128_GCM, 0), (0, 32), (4, 32)]
)
def test_a_secret_that_does_not_fit_is_refused(suite, size):
    cells = session()
    with pytest.raises(ValueError, match="cipher suite"):
        put_keys(cells, state.IN, suite, bytes(size))
    assert not any(cells)


def test_one_hmac_makes_no_more_than_the_hash_has():
    with pytest.raises(ValueError, match="33 bytes of sha256"):
        expand_label("sha256", SECRET, b"key", 33)
