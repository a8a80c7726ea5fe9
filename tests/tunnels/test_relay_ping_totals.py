"""What Pings of the gateway's own and their Pongs add to the totals: how many, round trip times, silences."""

from __future__ import annotations

import pytest

from gateway.protocol.scanner_state import SCANNER_CELLS
from gateway.tunnels.table.layout import GAP_BOUNDS_NS, PONG_NS, RTT_BOUNDS_NS, RTT_NS, SCANNER, SIDE_0, SIDE_CELLS

from .harness import NS, Rig
from .own_pings import BOTH, HELLO, answer, both_sides, ping, send

MS = 1_000_000


@both_sides
@pytest.mark.parametrize("milliseconds", [0, 3, 40, 700, 12_000])
def test_round_trip_times(rig: Rig, side: int, milliseconds: int) -> None:
    tunnel = rig.open()
    payload = ping(rig, tunnel, side)
    tunnel.age(milliseconds * MS)
    answer(rig, tunnel, side, payload)
    rtt = tunnel.side(side, RTT_NS)
    assert milliseconds * MS < rtt < (milliseconds + 200) * MS
    assert tunnel.side(side, PONG_NS) == rig.relay.now
    totals = rig.totals(side)
    assert totals.rtt_sum == rtt
    (bucket,) = (n for n, count in enumerate(totals.rtts) if count)
    assert totals.rtts[bucket] == 1
    assert bucket == sum(bound < rtt for bound in RTT_BOUNDS_NS)
    assert sum(rig.totals(1 - side).rtts) == 0


@both_sides
@pytest.mark.parametrize("seconds", [1, 3, 27, 5000])
def test_silences_that_a_pong_ends(rig: Rig, side: int, seconds: int) -> None:
    tunnel = rig.open()
    tunnel.age(seconds * NS)
    payload = ping(rig, tunnel, side)
    answer(rig, tunnel, side, payload)
    totals = rig.totals(side)
    assert seconds * NS <= totals.gaps_sum < (seconds + 5) * NS
    assert sum(totals.gaps) == 1
    assert totals.gaps[sum(bound < totals.gaps_sum for bound in GAP_BOUNDS_NS)] == 1
    # The other side has been silent all the while, and is so still.
    assert sum(rig.totals(1 - side).gaps) == 0
    # At once again, nothing was silent.
    answer(rig, tunnel, side, ping(rig, tunnel, side))
    assert sum(rig.totals(side).gaps) == 1


@both_sides
def test_silences_that_data_ends(rig: Rig, side: int) -> None:
    """While a Pong is waited for and while none is."""
    tunnel = rig.open()
    for n in (1, 2):
        tunnel.age(3 * NS)
        send(rig, tunnel, side, HELLO[side])
        assert sum(rig.totals(side).gaps) == n
        assert rig.totals(side).gaps[1] == n
        ping(rig, tunnel, side)
    tunnel.age(NS // 2)
    send(rig, tunnel, side, HELLO[side])
    assert sum(rig.totals(side).gaps) == 2


@both_sides
def test_a_pong_is_counted_for_its_side_alone(rig: Rig, side: int) -> None:
    tunnel = rig.open()
    answer(rig, tunnel, side, ping(rig, tunnel, side))
    mine, other = rig.totals(side), rig.totals(1 - side)
    assert (mine.pings, mine.pongs, mine.timeouts, sum(mine.rtts)) == (1, 1, 0, 1)
    assert (other.pings, other.pongs, other.timeouts, sum(other.rtts)) == (0, 0, 0, 0)


@both_sides
def test_the_scanner_never_sees_a_pong_of_the_gateways(rig: Rig, side: int) -> None:
    """Or it would take it for the answer to an endpoint's Ping."""
    tunnel = rig.open()

    def scanners() -> list[list[int]]:
        starts = (tunnel.row + SIDE_0 + each * SIDE_CELLS + SCANNER for each in BOTH)
        return [rig.cells[start : start + SCANNER_CELLS].tolist() for start in starts]

    before = scanners()
    answer(rig, tunnel, side, ping(rig, tunnel, side))
    assert scanners() == before
