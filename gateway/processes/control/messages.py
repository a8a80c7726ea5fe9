"""The messages between supervisor and worker: named tuples of plain data.

A change of a field, here or in a type that a message holds (``config/settings.py``), changes what is on the wire: count
``VERSION`` up, and run ``python -m tests.processes.control.golden``, whose file a test compares.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.config.address import Address
from gateway.config.settings import Settings
from gateway.routing.registry import Registry
from gateway.tunnels.learning.intervals import News

VERSION = 4
"""Old workers and a new supervisor have to understand each other during an upgrade: another version is refused."""

NO_DESCRIPTOR = -1


class Listen(NamedTuple):
    """To a worker: a listening socket of its own, to accept on as soon as the next configuration is in force.

    How connections are accepted on it comes with each configuration (``Settings.listen``): a reload changes that for
    sockets that are there, too, and one that fails changes nothing.
    """

    address: Address
    fd: int
    """in the process that has the message: of the sender, then of the worker, which owns it; -1 if it got lost, as
    there were no descriptors left"""


class Unlisten(NamedTuple):
    """To a worker: accept what waits at this address, and then no more."""

    address: Address


class Drain(NamedTuple):
    """To a worker: refuse what is new, close every tunnel in its turn, and say :class:`Drained`.

    A second one sets another period for those that are left.
    """

    period_seconds: float
    close_code: int


class Configure(NamedTuple):
    """To a worker: put this configuration in force, and say :class:`Configured`."""

    generation: int
    config: Settings
    registry: Registry
    drained_backends: frozenset[int] = frozenset()
    """numbers of those that get nothing new"""
    drain: Drain | None = None
    """for a worker that comes while the gateway drains"""
    takes_over: bool = False
    """for a new worker: accept nothing before it is told to (:class:`Accept`)"""


class Resolved(NamedTuple):
    """To a worker, before its first :class:`Configure` and whenever it changes: where names of backends lead."""

    names: dict[str, tuple[str, ...]]
    """IP addresses by name, best first; a name that is not here has not been resolved yet"""


class DrainBackends(NamedTuple):
    """To a worker: send these backends nothing new, and close their tunnels, each in its turn."""

    backends: frozenset[int]
    period_seconds: float
    close_code: int


class Stop(NamedTuple):
    """To a worker: exit at once."""


class ReopenLogs(NamedTuple):
    """To a worker: open log files anew, they were moved away."""


class Configured(NamedTuple):
    """From a worker: this configuration is in force; where it is the first one, connections are accepted."""

    generation: int


class Failed(NamedTuple):
    """From a worker: it could not put this configuration in force."""

    generation: int
    reason: str


class Learned(NamedTuple):
    """From a worker to the others: what it has learned of paths."""

    news: News


class Drained(NamedTuple):
    """From a worker: its last tunnel has ended, and its last request, or they had their time."""


# --- an upgrade (``upgrade.py``) -----------------------------------------------------------------------------------


class Release(NamedTuple):
    """To a worker that is being replaced: accept nothing more, stop serving some tunnels, and say :class:`Released`."""

    tunnels: int
    """how many at most"""


class Released(NamedTuple):
    """From a worker: these tunnels are for another to carry on."""

    fd: int
    """a ``memfd`` that tells which, and has what is pending of them (``tunnels/moving/parcel.py``)"""


class TakeOver(NamedTuple):
    """To a new worker: carry on tunnels of the worker that it replaces, and say :class:`TakenOver`.

    Their connections come through the store's socket.
    """

    fd: int
    """as of :class:`Released`"""


class TakenOver(NamedTuple):
    """From a new worker: they are carried on. The worker before has no part in them any more."""

    left: tuple[int, ...] = ()
    """ids of tunnels that it could not carry on, for lack of their connections or of room"""


class Accept(NamedTuple):
    """To a new worker: accept connections from now on."""

    fd: int = NO_DESCRIPTOR
    """where clients' connections come from that the worker before had between two requests (``edge/passage.py``)"""


class Forget(NamedTuple):
    """To a worker that is being replaced: another one carries on what it has released last."""

    left: tuple[int, ...] = ()
    """ids of tunnels that nobody carries on: serve these as before"""


class Resume(NamedTuple):
    """To a worker that was to be replaced: serve again what it has released, and accept connections again."""


class Retire(NamedTuple):
    """To a worker that is being replaced: finish what cannot be handed over, and say :class:`Retired`."""

    fd: int = NO_DESCRIPTOR
    """where clients' connections go between two requests; without it they are closed then"""


class Retired(NamedTuple):
    """From a worker: nothing is left to do."""


ToWorker = (
    Listen
    | Unlisten
    | Configure
    | Resolved
    | Drain
    | DrainBackends
    | Stop
    | ReopenLogs
    | Learned
    | Release
    | TakeOver
    | Accept
    | Forget
    | Resume
    | Retire
)
FromWorker = Configured | Failed | Drained | Learned | Released | TakenOver | Retired
Message = ToWorker | FromWorker
ABOUT_DESCRIPTORS = (Listen, Released, TakeOver, Accept, Retire)
"""Messages whose ``fd`` comes along."""
