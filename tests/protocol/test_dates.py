"""Dates as HTTP writes them."""

from email.utils import formatdate

import pytest

from gateway.protocol.dates import http_date


@pytest.mark.parametrize("seconds", [784111777, 951782400, 4102444799, *range(0, 400 * 86400, 86400 - 1)])
def test_dates(seconds: int) -> None:
    assert http_date(seconds).decode() == formatdate(seconds, usegmt=True)
