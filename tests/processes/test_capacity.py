"""``max_tunnels``: as configured, or what descriptors carry."""

import pytest

from gateway.edge.descriptors import SPARE, Descriptors
from gateway.processes.capacity import MOST_AUTO_TUNNELS, capacity, explain_capacity

from .records import config


@pytest.mark.parametrize(
    ("limit", "room"),
    [
        (1 << 20, MOST_AUTO_TUNNELS),
        (2 * MOST_AUTO_TUNNELS + SPARE, MOST_AUTO_TUNNELS),
        (2 * MOST_AUTO_TUNNELS + SPARE - 2, MOST_AUTO_TUNNELS - 1),
        (1024, (1024 - 128) // 2),
        (3, 1),
        (0, 1),
    ],
)
def test_auto_is_what_the_supervisors_store_has_descriptors_for(limit, room):
    assert capacity("auto", Descriptors(limit)) == room
    assert capacity(7, Descriptors(limit)) == 7


@pytest.mark.parametrize(
    ("asked", "limit", "level", "says"),
    [
        ("auto", 1024, "INFO", "room for 448 tunnels: descriptors are limited to 1024 per process"),
        (448, 1024, None, ""),
        (
            449,
            1024,
            "WARNING",
            "max_tunnels is 449: 449 tunnels can be open, and only 448 of them would survive",
        ),
        ("auto", 1 << 20, None, ""),
        (65536, 1 << 20, None, ""),
    ],
)
def test_only_a_number_that_does_not_fit_is_warned_of(caplog, asked, limit, level, says):
    caplog.set_level("INFO", "gateway")
    configured = config(workers=2, max_tunnels=asked)
    descriptors = Descriptors(limit)
    explain_capacity(capacity(configured.max_tunnels, descriptors), configured, descriptors)
    assert [record.levelname for record in caplog.records] == ([level] if level else [])
    assert says in caplog.text
