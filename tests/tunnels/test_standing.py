"""What workers read of the states of backends."""

from gateway.tunnels.table.layout import (
    H_STATES,
    HEALTH_DOWN,
    HEALTH_UP,
    MAX_BACKENDS,
    S_EJECTED_NS,
    S_HEALTH,
    S_RETURNED_NS,
)
from gateway.tunnels.table.standing import TableStanding
from gateway.tunnels.table.table import Table


def test_states():
    table = Table.create(1, 4)
    standing = TableStanding(table)
    last = MAX_BACKENDS - 1
    assert not any(standing.is_out(number) or standing.returned_ns(number) for number in (0, 1, last))
    cells = table.cells
    cells[table.state_at(0) + S_HEALTH] = HEALTH_DOWN
    cells[table.state_at(1) + S_HEALTH] = HEALTH_UP
    cells[table.state_at(1) + S_EJECTED_NS] = 77
    cells[table.state_at(last) + S_RETURNED_NS] = 99
    cells[H_STATES] += 1
    assert [(standing.is_down(n), standing.is_out(n)) for n in (0, 1, last)] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert (standing.returned_ns(last), standing.changed()) == (99, 1)
    assert not any(True for _ in table.rows())
    table.close()
