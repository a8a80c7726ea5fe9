"""Reload: applies a new configuration in all workers or in none."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Collection, Mapping

from gateway.admin.state import DrainState
from gateway.config import ConfigError
from gateway.config.certificates import Certificates
from gateway.config.credentials import Credentials
from gateway.config.schema import Address, Config
from gateway.processes.certificates import CertificateWatch
from gateway.processes.control.messages import DrainBackends, Unlisten
from gateway.processes.credentials import CredentialWatch
from gateway.processes.discovering import Discovering
from gateway.processes.health import BackendsHealth
from gateway.processes.listening import CannotListen, Listeners
from gateway.processes.resolving import Resolving
from gateway.processes.workers import Workers
from gateway.routing.registry import RegistryFull

UNLISTEN_SECONDS = 2.0
"""How long workers may take to close the sockets of an address that was removed."""

NEW_NAMES_SECONDS = 0.5
"""How long a reload waits for lookups of new backend names."""

NEW_KEYS_SECONDS = 1.0
"""How long a reload waits for key sets with other URLs: until they are there, their routes answer 503."""

log = logging.getLogger("gateway")


class Reloading:
    """Reloads of one gateway."""

    def __init__(
        self,
        workers: Workers,
        listeners: Listeners,
        discovering: Discovering,
        resolving: Resolving,
        watch: CertificateWatch,
        credentials: CredentialWatch,
        health: BackendsHealth,
        path: str,
        read: Callable[[str], Config],
    ) -> None:
        """
        :param path: of the configuration
        :param read: reads it; raises :class:`ConfigError`
        """
        self._workers = workers
        self._listeners = listeners
        self._discovering = discovering
        self._resolving = resolving
        self._watch = watch
        self._credentials = credentials
        self._health = health
        self._path = path
        self._read = read
        self._state = workers.state
        self._registry = workers.state.registry
        self._unlistened = -UNLISTEN_SECONDS

    async def reload(self) -> None:
        """Reload. An invalid configuration changes nothing."""
        state = self._state
        try:
            config = await asyncio.to_thread(self._read, self._path)
            certificates = await asyncio.to_thread(Certificates.read, config)
            credentials = await asyncio.to_thread(Credentials.read, config)
            _refuse_what_needs_a_restart(self._workers.config, config, state.max_tunnels)
            self._registry.admit(config)
            new = await self._open([listener.address for listener in config.listen])
        except (ConfigError, RegistryFull, CannotListen, ValueError) as error:
            state.last_reload_ok = False
            state.last_reload_error = str(error)
            log.error("reload failed; the current configuration stays in force:\n%s", error)
            return
        with self._watch.held(), self._credentials.held(), self._discovering.held():
            await self._apply(config, certificates, credentials, new)

    async def _apply(
        self,
        config: Config,
        certificates: Certificates,
        credentials: Credentials,
        new: Mapping[Address, list[socket.socket]],
    ) -> None:
        """Put a configuration in force. :param new: sockets of addresses that it adds"""
        state, workers = self._state, self._workers
        before, drained = workers.config, state.drained_backends
        certificates_before, credentials_before = workers.certificates, workers.credentials
        self._discovering.use(before, config)
        self._credentials.fetch_too(credentials)
        await asyncio.gather(
            self._resolving.first_answers(NEW_NAMES_SECONDS),
            self._discovering.first_answers(NEW_NAMES_SECONDS),
            self._credentials.key_sets.first_attempts(NEW_KEYS_SECONDS),
        )
        self._listeners.add(new)
        for worker in workers.serving():
            worker.listen(new)
        failures = await workers.configure_all(config, self._still_drained(config), certificates, credentials)
        state.last_reload_ok = not failures
        state.last_reload_error = "; ".join(failures) or None
        if failures:
            log.error("reload failed; restoring the previous configuration: %s", state.last_reload_error)
            await workers.configure_all(before, drained, certificates_before, credentials_before)
            self._discovering.use(before)
            self._credentials.use(credentials_before)
            self._unlisten(new)
            for number, drain in drained.items():  # drains in progress go on
                workers.send_to_all(DrainBackends(frozenset((number,)), drain.seconds_left, before.drain.close_code))
        else:
            self._unlisten(self._listeners.sockets.keys() - {listener.address for listener in config.listen})
            self._discovering.use(config)
            self._watch.use(certificates)
            self._credentials.use(credentials)
            state.config = config
            self._health.use(config)
            state.last_reload_unix = time.time()
            log.info("reloaded %s", self._path)

    async def _open(self, addresses: Collection[Address]) -> Mapping[Address, list[socket.socket]]:
        """As :meth:`Listeners.open`, but retries while workers may still be closing sockets after the previous reload.

        :raises CannotListen: as there
        """
        while True:
            try:
                return self._listeners.open(addresses)
            except CannotListen:
                if time.monotonic() > self._unlistened + UNLISTEN_SECONDS:
                    raise
            await asyncio.sleep(0.02)

    def _unlisten(self, addresses: Collection[Address]) -> None:
        """Stop listening. Workers accept the waiting connections first, then close the sockets' last descriptors."""
        addresses = list(addresses)
        self._unlistened = time.monotonic() if addresses else self._unlistened
        self._listeners.close(addresses)
        for address in addresses:
            self._workers.send_to_all(Unlisten(address))

    def _still_drained(self, config: Config) -> dict[int, DrainState]:
        """Return the drained backends that a configuration does not have: those that it has go back into service.

        Except for those that are drained because they are down: for as long as they are, and that is what it wants.
        """
        configured = {
            (name, str(each.address)): upstream.health_check
            for name, upstream in config.upstreams.items()
            for each in self._workers.backends_of(config, name)
        }

        def stays(number: int, drain: DrainState) -> bool:
            backend = self._registry.backends[number]
            if backend not in configured:
                return True
            check = configured[backend]
            return drain.by_health and check is not None and check.on_down == "drain"

        return {number: drain for number, drain in self._state.drained_backends.items() if stays(number, drain)}


def _refuse_what_needs_a_restart(old: Config, new: Config, max_tunnels: int) -> None:
    """
    :param max_tunnels: in force; ``auto`` means no change
    :raises ValueError: the new configuration changes something that is fixed while the gateway runs
    """
    fixed = {
        "workers": old.workers != new.workers,
        "max_tunnels": new.max_tunnels not in ("auto", max_tunnels),
        "admin.address": old.admin.address != new.admin.address,
    }
    changed = [key for key, differs in fixed.items() if differs]
    if changed:
        raise ValueError(f"{', '.join(changed)} cannot change while the gateway runs: restart it")
