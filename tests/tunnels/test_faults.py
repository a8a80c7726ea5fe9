"""What raises at one tunnel ends that one, and is logged and counted; all others are served on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.protocol.tls.state import SESSION_CELLS, SUITE
from gateway.tunnels.moving.final_close import end_all
from gateway.tunnels.moving.handback import hand_back
from gateway.tunnels.moving.mirrors import CannotConvert
from gateway.tunnels.table.layout import (
    BACKEND,
    CLIENT,
    DEADLINE_NS,
    FD,
    ID,
    INTEREST,
    NEVER,
    PENDING,
    RESERVED,
    SIDE_0,
    SIDE_CELLS,
    STALLED_NS,
    STATE,
    TLS,
)

from .harness import NS, Rig, Tunnel
from .pair import Pair
from .states import BOTH, HELLO, used
from .tls_peers import TLS13
from .transition import Begin

IDLE_AFTER = 30 * NS


class Boom(Exception):
    """What a mistake in the gateway raises."""


@pytest.fixture(autouse=True)
def log_of_the_gateway(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.ERROR, logger="gateway")
    return caplog


def failures(log: pytest.LogCaptureFixture) -> list[str]:
    """Log lines, each of which says what was raised."""
    assert all(record.exc_info for record in log.records)
    return [record.getMessage() for record in log.records]


def claim_pending(rig: Rig, tunnel: Tunnel) -> None:
    """The row says that bytes are pending for the client, and there are none: whatever looks for them raises."""
    rig.cells[tunnel.row + SIDE_0 + PENDING] = 7


def at_its_end(tunnel: Tunnel) -> Callable[[int], None]:
    """An owner of rows that raises when this tunnel ends."""
    row = tunnel.row

    def ended(which: int) -> None:
        if which == row:
            raise Boom

    return ended


def assert_cut(rig: Rig, tunnel: Tunnel) -> None:
    """Both connections have ended, though somebody else holds them too, and nothing looks at the row again."""
    for side in BOTH:
        rig.until(tunnel.peer(side).has_ended, "the end")
    if rig.cells[tunnel.row + STATE] != RESERVED:
        assert rig.cells[tunnel.row + ID] != tunnel.id
    assert rig.cells[tunnel.row + DEADLINE_NS] == NEVER
    rig.serve()
    assert not any(f"/{fd}" in str(where) for fd, where in ours(tunnel).items())


def ours(tunnel: Tunnel) -> dict[int, str]:
    """Descriptors of the worker's that are still connections of the tunnel."""
    found = {}
    for fd in tunnel.fds:
        try:
            where = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if where in tunnel.sockets:
            found[fd] = where
    return found


# --- in a TLS session -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", BOTH)
def test_a_session_that_is_corrupt_ends_its_tunnel_alone(rig: Rig, caplog: pytest.LogCaptureFixture, side: int) -> None:
    """Whether its records are to be opened or sealed."""
    bad, other = rig.open(tls=(TLS13, None)), rig.open(tls=(TLS13, None))
    rig.cells[bad.side(CLIENT, TLS) + SUITE] = 9
    bad.peer(side).send(HELLO[side])
    assert rig.end().cause == "worker_lost"
    assert failures(caplog)[0].startswith(f"tunnel {bad.id:x}: relaying failed")
    assert_cut(rig, bad)
    assert not any(rig.table.cells[rig.table.session_at(bad.row, 0) :][:SESSION_CELLS].tolist())
    used(rig, other)


# --- in the sweep -----------------------------------------------------------------------------------------------------


def test_the_sweep_goes_on_behind_a_row_that_raises(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    bad, behind = rig.open(), rig.open(idle=IDLE_AFTER)
    claim_pending(rig, bad)
    rig.cells[bad.row + SIDE_0 + STALLED_NS] = 1
    rig.cells[bad.row + DEADLINE_NS] = 0
    rig.sweep(rig.relay.now + IDLE_AFTER)
    rig.until(behind.client.read, "a Close frame")
    assert_cut(rig, bad)
    assert failures(caplog)[0].startswith(f"tunnel {bad.id:x}: upkeep failed")
    assert rig.table.faults(0) == 1


def test_a_row_that_cannot_even_be_ended_is_out_of_the_way(rig: Rig) -> None:
    """It is no tunnel any more, and the next worker of the slot gives it back."""
    bad, other = rig.open(), rig.open()
    rig.before_end = at_its_end(bad)
    bad.client.half_close()
    rig.until(bad.backend.has_ended, "FIN")
    for _ in range(3):
        rig.sweep(rig.relay.now + 3600 * NS)
        assert rig.table.faults(0) == 1
    assert_cut(rig, bad)
    assert list(rig.table.rows()) == [other.row]
    assert rig.slice.rows_in_use == 2
    used(rig, other)
    rig.before_end = lambda row: None
    assert rig.succeed() == (1, 0, 0)
    assert rig.slice.rows_in_use == 1
    assert bad.id not in rig.kept
    assert not rig.ends


def test_an_owner_that_raises_when_it_has_given_the_row_back(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The row may be another tunnel's by then: it is left alone."""
    bad, behind = rig.open(), rig.open()
    for tunnel in (bad, behind):
        tunnel.client.half_close()
        rig.until(tunnel.backend.has_ended, "FIN")
    taken: list[int | None] = []

    def ended() -> None:
        if rig.ends[-1].row == bad.row:
            taken.append(rig.slice.allocate(0, 0))
            raise Boom

    rig.when_ended = ended
    rig.sweep(rig.relay.now + 60 * NS)
    assert [end.row for end in rig.ends] == [bad.row, behind.row]
    assert taken == [bad.row]
    assert (rig.slice.rows_in_use, rig.cells[bad.row + STATE]) == (1, RESERVED)
    assert len(failures(caplog)) == 1
    for tunnel in (bad, behind):
        assert_cut(rig, tunnel)


def test_a_ping_that_raises_costs_no_other_its_own(rig: Rig, tmp_path: Path) -> None:
    """Of those that are sent between two walks."""
    bad, behind = (rig.open(ping_after=(10 * NS, NEVER)) for _ in range(2))
    number, fd = bad.id, bad.side(CLIENT, FD)
    due = rig.relay.now + 10 * NS
    rig.sweeper.walk(due - NS // 2)
    assert behind.client.read() == 0
    (tmp_path / "file").touch()
    with (tmp_path / "file").open() as file:  # it takes no bytes, and epoll does not take it
        os.dup2(file.fileno(), fd)
    rig.cells[bad.row + SIDE_0 + INTEREST] = 0
    rig.sweeper.tick(due)
    rig.until(behind.client.read, "a Ping")
    rig.until(bad.backend.has_ended, "the end")
    assert [rig.cells[end.row + ID] == number for end in rig.ends] == [False]
    assert rig.table.faults(0) == 1


# --- in the relay -----------------------------------------------------------------------------------------------------


def test_those_whose_events_come_in_the_same_turn_are_served(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    bad, other = rig.open(), rig.open()
    rig.before_end = at_its_end(bad)
    bad.client.close()
    bad.backend.close()
    other.client.send(HELLO[CLIENT])
    rig.until(lambda: len(rig.waiting()) == 3, "all events", turn=None)
    rig.serve()
    assert other.backend.has(HELLO[CLIENT])
    other.backend.received.clear()
    assert failures(caplog)[0].startswith(f"tunnel {bad.id:x}: relaying failed")
    assert list(rig.table.rows()) == [other.row]
    rig.serve()
    assert not ours(bad)
    assert rig.table.faults(0) == 1
    used(rig, other)


def test_a_mistake_that_hits_many_is_logged_once_in_a_while(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    tunnels = [rig.open() for _ in range(5)]

    def ended(row: int) -> None:
        raise Boom

    rig.before_end = ended
    for tunnel in tunnels:
        tunnel.client.close()
        tunnel.backend.close()
    rig.until(lambda: rig.table.faults(0) == 5, "all to fail")
    assert len(failures(caplog)) == 1
    assert rig.slice.rows_in_use == 5
    assert list(rig.table.rows()) == []


@pytest.mark.parametrize("side", BOTH)
def test_a_row_whose_descriptor_is_gone_ends_without_touching_another(rig: Rig, side: int) -> None:
    """-1 is where a descriptor's owner would be looked up from behind."""
    gone, other = rig.open(), rig.open()
    fd = gone.side(side, FD)
    rig.poller.kernel.unwatch(fd)
    rig.cells[gone.row + SIDE_0 + side * SIDE_CELLS + FD] = -1
    rig.cells[gone.row + SIDE_0 + side * SIDE_CELLS + INTEREST] = 0
    rig.relay.finish(gone.row)
    rig.serve()
    assert [end.row for end in rig.ends] == [gone.row]
    rig.until(gone.peer(1 - side).has_ended, "the end")
    os.close(fd)
    used(rig, other)


def test_a_released_row_whose_descriptor_is_gone_is_disowned(rig: Rig) -> None:
    gone, other = rig.open(), rig.open()
    for side in BOTH:
        rig.poller.kernel.unwatch(gone.side(side, FD))
        rig.cells[gone.row + SIDE_0 + side * SIDE_CELLS + FD] = -1
    rig.relay.release(gone.row)
    rig.relay.disown(gone.row)
    rig.slice.release(gone.row)
    used(rig, other)
    for fd in gone.fds:
        os.close(fd)


# --- while tunnels move -----------------------------------------------------------------------------------------------


def test_adoption_goes_on_behind_a_row_that_raises(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    bad, other = rig.open(), rig.open()
    used(rig, other)
    rig.forget(bad.id)  # it is lost, and its end raises
    rig.before_end = at_its_end(bad)
    assert rig.succeed() == (1, 0, 1)
    assert failures(caplog)[0].startswith(f"tunnel {bad.id:x}: adoption failed")
    assert list(rig.table.rows()) == [other.row]
    used(rig, other)


def test_a_row_of_a_backend_that_cannot_be_does_not_keep_a_worker_from_starting(rig: Rig) -> None:
    bad, other = rig.open(), rig.open()
    rig.cells[bad.row + BACKEND] = 10**15
    assert rig.succeed() == (1, 1, 0)
    assert rig.end().cause == "worker_lost"
    used(rig, other)


def test_what_cannot_be_released_does_not_hold_up_those_that_move(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    rig = pair.rig
    bad, other = rig.open(), rig.open()
    claim_pending(rig, bad)
    assert pair.move() == (1, [])
    assert failures(caplog)[0].startswith(f"tunnel {bad.id:x}: handover failed")
    assert_cut(rig, bad)
    pair.go_on_with_the_new_one()
    used(rig, other)


def test_a_row_that_cannot_be_read_stays_with_the_old_worker(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    rig = pair.rig
    bad, other = rig.open(), rig.open()
    copy_of = rig.table.copy_of

    def read(row: int) -> tuple[list[int], bytes]:
        if row == bad.row:
            raise Boom
        return copy_of(row)

    rig.table.copy_of = read  # type: ignore[method-assign]  # one row of it cannot be read
    assert pair.move() == (1, [bad.id])
    assert f"tunnel {bad.id:x}" in failures(caplog)[0]
    used(rig, bad)
    rig.relay.finish(bad.row)
    pair.go_on_with_the_new_one()
    used(rig, other)


def test_a_worker_hands_back_all_but_the_row_that_raises(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    bad, other = rig.open(), rig.open()
    claim_pending(rig, bad)
    assert hand_back(rig.slice, rig.relay, 1) == 0
    assert failures(caplog)[0].startswith(f"tunnel {bad.id:x}: handing back failed")
    rig.before_end = lambda row: None
    found = rig.succeed()
    assert found.adopted == 1
    used(rig, other)


def test_what_is_no_socket_does_not_keep_others_from_their_close_frame(rig: Rig, tmp_path: Path) -> None:
    tunnel = rig.open()
    rig.relay.release(tunnel.row)
    with (tmp_path / "file").open("w") as file:
        wrong = (os.dup(file.fileno()), os.dup(file.fileno()))
    fds = rig.kept[tunnel.id]
    assert end_all([(1, wrong), (tunnel.id, (os.dup(fds[0]), os.dup(fds[1])))], [rig.table.fd]) == 2
    for fd in wrong:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


# --- in a table of another layout -------------------------------------------------------------------------------------


def test_a_row_that_cannot_be_converted_costs_the_others_nothing(
    transition: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    bad, other = rig.open("unix"), rig.open("unix")
    made = transition(rig)
    (source,) = set(made.mirrors._sources.values())
    convert, theirs = source.conversion.row, made.theirs.row.names["ID"][0]

    def row(slot: int, number: int, data: bytes) -> object:
        if memoryview(data).cast("q")[theirs] == bad.id:
            raise Boom
        return convert(slot, number, data)

    monkeypatch.setattr(source.conversion, "row", row)
    for _ in range(3):
        assert made.mirrors.refresh() == {"row": 1}
    assert [made.table.cells[row + ID] for row in made.table.rows(0)] == [other.id]
    assert len(failures(caplog)) == 1
    assert made.move() == (1, [bad.id])
    used(rig, bad)
    made.go_on_with_the_new_one()
    used(rig, other)


def test_an_upgrade_does_not_begin_while_a_row_cannot_be_converted(transition: Begin) -> None:
    rig = Rig()
    made = transition(rig)
    made.mirrors.unknown["row"] += 1
    with pytest.raises(CannotConvert, match="1 by row"):
        made.mirrors.check()
