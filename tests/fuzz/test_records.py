"""Any stream of records: what comes out is what was sent, up to the first thing that was not right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import records
from tests.fuzz.pieces import MANY
from tests.fuzz.records import play


@MANY
@given(st.binary(min_size=4, max_size=300))
def test_records_from_an_attacker(data):
    play(data)


def test_what_is_found_is_reported(monkeypatch):
    """The check can fail."""

    class Wrong(records.Records):
        def open(self, cells, at, start, end, sink, sink_at):
            got = super().open(cells, at, start, end, sink, sink_at)
            if got:
                sink[sink_at] ^= 1
            return got

    monkeypatch.setattr(records, "Records", Wrong)
    with pytest.raises(AssertionError, match="not what was sent"):
        play(bytes((0, 0, 0, 5)) + b"hello")
