"""The messages between supervisor and worker: named tuples of plain data.

Changing a field, here or in a type that a message holds (``config/settings.py``), changes the wire format: increment
``VERSION``, and run ``python -m tests.processes.control.golden``, which updates the file that a test compares.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.config.address import Address
from gateway.config.settings import Backend, Listener, Settings, UpstreamTls
from gateway.routing.registry import Registry
from gateway.tunnels.learning.intervals import News

VERSION = 9
"""Version of the wire format. Upgrades across versions are refused, since old workers talk to the new supervisor."""

NO_DESCRIPTOR = -1


class Listen(NamedTuple):
    """To a worker: its own listening socket, to be used once the next configuration is in force.

    How connections on it are accepted is part of each configuration (``Settings.listen``), so a reload changes it for
    existing sockets too, and a failed reload changes nothing.
    """

    address: Address
    fd: int
    """the sender's descriptor, after receipt the worker's, which the worker owns; -1 if it was lost for lack of
    descriptors"""


class Unlisten(NamedTuple):
    """To a worker: accept the connections that wait at this address, then stop listening there."""

    address: Address


class Drain(NamedTuple):
    """To a worker: refuse new requests, close every tunnel in its turn, and report :class:`Drained`.

    A second one sets a new period for the remaining tunnels.
    """

    period_seconds: float
    close_code: int


class Configure(NamedTuple):
    """To a worker: apply this configuration, and report :class:`Configured` or :class:`Failed`."""

    generation: int
    config: Settings
    registry: Registry
    drained_backends: frozenset[int] = frozenset()
    """numbers of the backends that get nothing new"""
    drain: Drain | None = None
    """for a worker that starts while the gateway drains"""
    takes_over: bool = False
    """for a new worker in an upgrade: accept no connections until :class:`Accept`"""


class Resolved(NamedTuple):
    """To a worker, before its first :class:`Configure` and on every change: the addresses of backend names."""

    names: dict[str, tuple[str, ...]]
    """IP addresses by name, best first; names that have not been resolved yet are missing"""


class UseCertificates(NamedTuple):
    """To a worker: certificates were renewed; accept connections and connect to backends like this from now on."""

    listen: tuple[Listener, ...]
    upstreams: dict[str, UpstreamTls]
    """those with TLS"""


class UseCredentials(NamedTuple):
    """To a worker: users or keys have changed."""

    texts: dict[str, str]
    """all that there are, as in ``Settings.credentials``"""


class KeysFetched(NamedTuple):
    """To a worker: whatever the latest attempt to fetch a key set has brought is in force now."""

    source: str


class DrainBackends(NamedTuple):
    """To a worker: send these backends nothing new, and close their tunnels in turn."""

    backends: frozenset[int]
    period_seconds: float
    close_code: int


class UseBackends(NamedTuple):
    """To a worker: these upstreams have other backends from now on. Tunnels and requests in flight go on."""

    upstreams: dict[str, tuple[Backend, ...]]
    """all backends of the upstreams that have changed"""
    registry: Registry
    drained_backends: frozenset[int]
    """numbers of the backends that get nothing new"""


class Rebalance(NamedTuple):
    """To a worker: tunnels of an upstream move to where they belong; close these in their turn."""

    upstream: str
    turns: tuple[tuple[int, int], ...]
    """ids of this worker's tunnels, and when each is closed (``CLOCK_MONOTONIC``, nanoseconds)"""
    close_code: int
    settles_until_ns: int
    """until then, new tunnels go where the fewest are, so that nobody comes back; 0 where keys are hashed"""


class KeepBackends(NamedTuple):
    """To a worker: these backends are in service again; leave their tunnels alone."""

    backends: frozenset[int]


class Stop(NamedTuple):
    """To a worker: exit at once."""


class ReopenLogs(NamedTuple):
    """To a worker: reopen the log files, which were moved away."""


class Configured(NamedTuple):
    """From a worker: this configuration is in force. After the first one, connections are accepted."""

    generation: int


class Failed(NamedTuple):
    """From a worker: this configuration could not be applied."""

    generation: int
    reason: str


class Learned(NamedTuple):
    """From a worker to the others: what it has learned about network paths."""

    news: News


class KeysWanted(NamedTuple):
    """From a worker: a token names a key that its key set lacks. :class:`KeysFetched` answers this."""

    source: str
    """URL"""


class Failures(NamedTuple):
    """From a worker: how often backends have failed since its last message like this."""

    counts: dict[int, int]
    """by number; only of upstreams that eject backends"""


class Drained(NamedTuple):
    """From a worker: its last tunnel and its last request have ended, or requests ran out of time."""


# --- an upgrade (``upgrade.py``) -----------------------------------------------------------------------------------


class Release(NamedTuple):
    """To a worker being replaced: stop accepting, stop serving some tunnels, and report :class:`Released`."""

    tunnels: int
    """at most this many"""


class Released(NamedTuple):
    """From a worker: it has released these tunnels to its successor."""

    fd: int
    """a ``memfd`` with their ids and pending data (``tunnels/moving/parcel.py``)"""


class TakeOver(NamedTuple):
    """To a new worker: take over tunnels of the worker that it replaces, and report :class:`TakenOver`.

    Their connections come through the store's socket.
    """

    fd: int
    """from :class:`Released`"""


class TakenOver(NamedTuple):
    """From a new worker: it serves the tunnels now. The old worker must not touch them any more."""

    left: tuple[int, ...] = ()
    """ids of tunnels that it could not take over, for lack of connections or room"""


class Accept(NamedTuple):
    """To a new worker: accept connections from now on."""

    fd: int = NO_DESCRIPTOR
    """socket over which the old worker hands over client connections that are between requests (``edge/passage.py``)"""


class Forget(NamedTuple):
    """To a worker being replaced: its successor serves the tunnels that it released last."""

    left: tuple[int, ...] = ()
    """ids of tunnels that were not taken over: serve these as before"""


class Resume(NamedTuple):
    """To a worker that is not replaced after all: serve the released tunnels again, and accept connections again."""


class Retire(NamedTuple):
    """To a worker being replaced: finish what cannot be handed over, and report :class:`Retired`."""

    fd: int = NO_DESCRIPTOR
    """socket to hand over client connections that are between requests; without it they are closed"""


class Retired(NamedTuple):
    """From a worker: it has nothing left to do."""


ToWorker = (
    Listen
    | Unlisten
    | Configure
    | Resolved
    | Drain
    | DrainBackends
    | UseBackends
    | Rebalance
    | KeepBackends
    | UseCertificates
    | UseCredentials
    | KeysFetched
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
FromWorker = Configured | Failed | Failures | Drained | Learned | KeysWanted | Released | TakenOver | Retired
Message = ToWorker | FromWorker
ABOUT_DESCRIPTORS = (Listen, Released, TakeOver, Accept, Retire)
"""Messages that carry their ``fd``."""
