"""How a supervisor gets what it owns: it opens everything, inherits it from the previous program in the same process
(``upgrade.py``), or finds it with the service manager, which kept it for a supervisor that died (``keeping.py``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gateway.config.address import parse_listen
from gateway.config.schema import Address, Config
from gateway.processes import resumption
from gateway.processes.counting import count_tunnels, inherit_quotas, new_quotas
from gateway.processes.inheritance import CannotInherit, Inheritance
from gateway.processes.keeping import Keeping, least
from gateway.processes.listening import CannotListen, Listeners, forget_unix_socket, listen_alone
from gateway.processes.manager_store import ManagerStore, offered, take_passed
from gateway.processes.metrics_files import metrics_directory
from gateway.processes.notify import manager_address
from gateway.routing.registry import Registry, RegistryFull
from gateway.tunnels.moving.adoption import Connections
from gateway.tunnels.moving.final_close import end_all
from gateway.tunnels.moving.mirrors import Mirrors
from gateway.tunnels.quotas.quotas import Quotas
from gateway.tunnels.table.layout import ID
from gateway.tunnels.table.slots import settle
from gateway.tunnels.table.table import Table

FORGET_SECONDS = 2.0
"""How long the manager may take to close sockets: until then their addresses are taken."""

RETRY_SECONDS = 0.05
T = TypeVar("T")
log = logging.getLogger("gateway")


@dataclass
class Opened:
    """What a supervisor owns."""

    mirrors: Mirrors
    quotas: Quotas
    admin: socket.socket
    listeners: Listeners
    max_tunnels: int
    """room in the table; the result of ``auto``"""
    metrics: str
    """directory of the workers' metrics files"""
    keeping: Keeping | None = None
    before: Inheritance | None = None
    """the state of the previous supervisor of this gateway"""
    slots: list[int] | None = None
    """by worker; None for the default slots"""
    tunnels: dict[int, list[tuple[int, Connections]]] = field(default_factory=dict)
    """tunnels that no worker serves, by slot"""

    @property
    def table(self) -> Table:
        """The table that all new workers write."""
        return self.mirrors.table

    def close(self) -> None:
        """Close everything. The files of unix sockets and metrics stay."""
        if self.keeping is not None:
            self.keeping.close()
        self.admin.close()
        self.listeners.close(forget=False)
        self.mirrors.close()
        self.table.close()
        self.quotas.close()


async def open_all(config: Config, registry: Registry, room: int, demo: bool = False) -> Opened:
    """Start a new gateway, or resume the one of a supervisor that died.

    :param room: for tunnels, if a new table is made
    :param registry: has the configuration's names; the previous gateway's names are added
    :raises CannotListen: the gateway cannot listen on an address
    :raises resumption.StillServed: workers of the previous supervisor are still running
    """
    address, most = manager_address(os.environ), offered(os.environ)
    found = [] if demo else resumption.find(take_passed(os.environ))
    store = None
    if address is not None and (most or found) and not demo:
        names = [name for kept in found for name in kept.names]
        store = ManagerStore(address, most, asyncio.get_running_loop(), names)
    opened = None
    for kept in found:
        await kept.until_unused()
    for kept in found:
        try:
            if opened is not None or not kept.complete:
                raise CannotInherit("saved descriptors are missing")
            opened = await _resume(kept, config, registry, store)
        except CannotInherit as error:
            kept.abandon(str(error))
            if store is not None:
                for name in kept.names:
                    store.remove(name)
    if opened is None:
        opened = await _begin(config, registry, room, store, bool(found))
    if opened.keeping is None and store is not None:
        for name in store.names:
            store.remove(name)
        await store.sent(1)
        store.close()
    return opened


async def _begin(config: Config, registry: Registry, room: int, store: ManagerStore | None, patient: bool) -> Opened:
    """:param patient: retry addresses that are taken, since the manager may still have to close its sockets"""
    listeners = Listeners(config.workers)
    admin = await _in_time(lambda: listen_alone(config.admin.address), patient)
    try:
        listeners.add(await _in_time(lambda: listeners.open(_addresses(config)), patient))
    except CannotListen:
        admin.close()
        raise
    mirrors = Mirrors(Table.create(config.workers, room), registry.sizes)
    opened = Opened(mirrors, new_quotas(mirrors.table), admin, listeners, room, metrics_directory())
    if store is not None and _suffices(store, listeners):
        opened.keeping = Keeping.begin(store, mirrors)
        opened.keeping.keep_quotas(opened.quotas.fd, True)
    return opened


def _addresses(config: Config) -> list[Address]:
    return [listener.address for listener in config.listen]


async def _in_time(attempt: Callable[[], T], patient: bool) -> T:
    """Attempt to listen, and retry for a while if asked to. :raises CannotListen: no attempt succeeded"""
    give_up = time.monotonic() + FORGET_SECONDS
    while True:
        try:
            return attempt()
        except CannotListen:
            if not patient or time.monotonic() > give_up:
                raise
            await asyncio.sleep(RETRY_SECONDS)


def _suffices(store: ManagerStore, listeners: Listeners) -> bool:
    needed = least(listeners.sockets)
    if store.most < needed:
        log.error(
            "the service manager keeps %d descriptors, but at least %d are needed: tunnels would be lost if the"
            " supervisor died; raise FileDescriptorStoreMax=",
            store.most,
            needed,
        )
    return store.most >= needed


# --- an upgrade -------------------------------------------------------------------------------------------------------


def inherit(config: Config, registry: Registry, left: Inheritance) -> Opened:
    """Take over the state of the previous program. :raises ValueError: the table cannot be converted"""
    for fd in left.descriptors():
        os.set_inheritable(fd, False)
    sockets = {address: [socket.socket(fileno=fd) for fd in each] for address, each in left.listen}
    listeners = Listeners(config.workers)
    listeners.add({listener.address: sockets[str(listener.address)] for listener in config.listen})
    mirrors = left.carry_on(registry.sizes)
    admin = socket.socket(fileno=left.admin[1])
    table = mirrors.table
    quotas, is_new = inherit_quotas(left.quotas, table)
    if is_new:  # running workers hand their tunnels over soon, and those are counted then
        idle = {*range(table.slots)} - {worker.slot for worker in left.running}
        count_tunnels(quotas, table, idle, config, registry)
    opened = Opened(mirrors, quotas, admin, listeners, left.max_tunnels, left.metrics, before=left)
    address = manager_address(os.environ)
    if left.store is not None and address is not None:
        store = ManagerStore(address, offered(os.environ), asyncio.get_running_loop(), left.store.names)
        tunnels = dict(each for worker in left.running for each in worker.tunnels)
        opened.keeping = Keeping.inherit(store, mirrors, left.store, tunnels)
        opened.keeping.keep_quotas(quotas.fd, is_new)
    else:
        mirrors.write_header("H_KEPT", 0)
    return opened


# --- after the death of a supervisor ----------------------------------------------------------------------------------


async def _resume(kept: resumption.Kept, config: Config, registry: Registry, store: ManagerStore | None) -> Opened:
    """Resume a gateway. :raises CannotInherit: impossible. :raises CannotListen: on an address that is new"""
    mirrors, before = kept.read(config)
    table = mirrors.table
    try:
        _readmit(registry, before, config)
    except RegistryFull as error:
        table.close()
        raise CannotInherit(str(error)) from None
    sockets = kept.sockets()
    listeners = Listeners(config.workers)
    numbers = _take_listeners(listeners, config, before, sockets)
    admin, number = sockets.pop(before.admin[1], None), before.admin[1]
    if admin is not None and str(config.admin.address) == before.admin[0]:
        numbers[""] = [number]
    else:
        if admin is not None:
            admin.close()
        admin = listen_alone(config.admin.address)
    for sock in sockets.values():
        sock.close()
    if store is not None:
        used = {f"{kept.prefix}{kind}-{n}" for kind in ("listen", "admin") for each in numbers.values() for n in each}
        for name in store.names - used:
            if "-listen-" in name or "-admin-" in name:
                store.remove(name)
    listeners.add(await _in_time(lambda: listeners.open(_addresses(config)), True))
    settled = settle(table, len(registry.routes), len(registry.backends))
    metrics = metrics_directory(before.metrics)
    quotas, are_new = inherit_quotas(kept.quotas(), table)
    for slot in {*range(table.slots)} - {*settled.slots}:
        quotas.clear(slot)
    count_tunnels(quotas, table, settled.slots, config, registry)
    opened = Opened(mirrors, quotas, admin, listeners, before.max_tunnels, metrics, None, before, settled.slots)
    tunnels = kept.tunnels()
    for slot in settled.slots:
        ids = {table.cells[row + ID] for row in table.rows(slot)}
        opened.tunnels[slot] = [(tunnel, tunnels.pop(tunnel)) for tunnel in ids & tunnels.keys()]
    end_all(tunnels.items(), ())  # they had ended, but their worker may have died before it could report that
    if settled.crowded:
        log.error(
            "lost %d tunnels: the crash came during an upgrade, and one worker's slot cannot hold those of both",
            settled.crowded,
        )
    if store is not None and _suffices(store, listeners):
        opened.keeping = Keeping.resume(store, mirrors, kept.take("record"), numbers)
        opened.keeping.replace_tunnels(each for some in opened.tunnels.values() for each in some)
        opened.keeping.keep_quotas(quotas.fd, are_new)
    else:
        mirrors.write_header("H_KEPT", 0)
    kept.close()
    log.info(
        "resumed after a supervisor crash: %d tunnels, %d of them with saved descriptors",
        table.tunnels(),
        sum(len(each) for each in opened.tunnels.values()),
    )
    return opened


def _readmit(registry: Registry, before: Inheritance, config: Config) -> None:
    """Number names as the previous supervisor did. :raises RegistryFull: there is no room for new names"""
    kept = replace(registry, routes=registry.routes[:], backends=registry.backends[:])
    registry.use(before.registry)
    try:
        registry.admit(config)
    except RegistryFull:
        registry.use(kept)
        raise


def _take_listeners(
    listeners: Listeners, config: Config, before: Inheritance, sockets: dict[int, socket.socket]
) -> dict[str, list[int]]:
    """Take the sockets that the configuration needs; return their numbers, by address."""
    wanted = {str(listener.address): listener.address for listener in config.listen}
    used: dict[str, list[int]] = {}
    for text, numbers in before.listen:
        found = [sockets.pop(number) for number in numbers if number in sockets]
        address = wanted.get(text)
        if address is not None and address.path is not None and found:
            found += [found[0].dup() for _ in range(config.workers - 1)]
        if address is not None and len(found) == config.workers:
            listeners.add({address: found})
            used[text] = numbers
        else:
            for sock in found:
                sock.close()
            if address is None:
                forget_unix_socket(parse_listen(text))
    return used
