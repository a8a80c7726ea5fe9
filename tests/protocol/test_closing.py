"""Close codes: which may be sent, and how metrics name them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import EXTERNAL_CLOSE_CODES

from gateway.protocol.closing import label, may_be_sent

pytestmark = pytest.mark.either_build


@given(st.integers(0, 70000))
def test_may_be_sent_as_the_websockets_library_has_it(code):
    assert may_be_sent(code) == (code in EXTERNAL_CLOSE_CODES or 3000 <= code <= 4999)


@pytest.mark.parametrize("code", [1004, 1005, 1006, 1015])
def test_codes_for_local_use(code):
    assert not may_be_sent(code)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "none"),
        (1000, "1000"),
        (1004, "other"),
        (1005, "1005"),
        (1006, "1006"),
        (1012, "1012"),
        (1015, "1015"),
        (1016, "other"),
        (999, "other"),
        (2999, "other"),
        (3000, "3xxx"),
        (3999, "3xxx"),
        (4000, "4xxx"),
        (4999, "4xxx"),
        (5000, "other"),
        (65535, "other"),
    ],
)
def test_labels(code, name):
    assert label(code) == name


def test_labels_are_few():
    assert len({label(code) for code in range(65536)}) <= 20
