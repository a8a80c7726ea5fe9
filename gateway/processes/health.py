"""Which backends are in service, decided once for all workers, by health checks and by the failures they report.

The rules are in ``routing/health/``; what they decide goes into the shared table, where workers read it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.admin.state import BackendState, DrainState, GatewayState
from gateway.config.health import HealthCheck
from gateway.config.schema import Config, Upstream
from gateway.config.settings import tls_of
from gateway.processes.control.messages import DrainBackends, KeepBackends
from gateway.processes.probes import Checkable, CheckFailed
from gateway.processes.probing import Probing
from gateway.processes.workers import Workers
from gateway.routing.health.checks import Checked, Health
from gateway.routing.health.ejection import Ejection, Rule, decide
from gateway.tunnels.table.layout import (
    H_STATES,
    HEALTH_DOWN,
    HEALTH_UNKNOWN,
    HEALTH_UP,
    S_EJECTED_NS,
    S_HEALTH,
    S_RETURNED_NS,
    S_SINCE_UNIX_NS,
    STATE_CELLS,
)

NS = 1_000_000_000
IN_TABLE: Mapping[Health, int] = {"unknown": HEALTH_UNKNOWN, "up": HEALTH_UP, "down": HEALTH_DOWN}
FROM_TABLE: Mapping[int, Health] = {value: health for health, value in IN_TABLE.items()}

log = logging.getLogger("gateway")


@dataclass
class _Backend:
    """One backend."""

    number: int
    upstream: str
    address: str
    drain: bool
    check: HealthCheck | None
    rule: Rule | None
    checked: Checked
    ejection: Ejection
    reason: str | None = None
    """of the last change"""
    since: float = 0.0
    """when that was, by ``CLOCK_MONOTONIC``"""
    timer: asyncio.TimerHandle | None = None
    """fires when its ejection is over"""
    spared_ns: int = 0
    """when the log last said that it is not ejected"""

    @property
    def is_down(self) -> bool:
        """Whether it is down by its health checks."""
        return self.checked.health == "down"

    @property
    def is_out(self) -> bool:
        """Whether it gets nothing new."""
        return self.is_down or self.ejection.until_ns != 0


class BackendsHealth:
    """The states of all backends of one gateway."""

    def __init__(self, state: GatewayState, workers: Workers) -> None:
        self._state = state
        self._workers = workers
        self._backends: dict[int, _Backend] = {}
        self._probing = Probing(self._checked)
        self._begun = False

    def use(self, config: Config) -> None:
        """Check and eject the backends of a configuration, and no others, from now on.

        At the start, states are carried on that the table has from a previous supervisor. A backend that comes with a
        later configuration is new: its weight grows from nothing (slow start).
        """
        registry = self._state.registry
        found: dict[int, _Backend] = {}
        for name, upstream in config.upstreams.items():
            rule = _rule_of(upstream)
            for each in self._workers.backends_of(config, name):
                number = registry.backend(name, str(each.address))
                backend = self._backends.pop(number, None) or self._new(number, name, str(each.address))
                backend.drain, backend.check, backend.rule = each.drain, upstream.health_check, rule
                found[number] = backend
        for gone in self._backends.values():
            self._forget(gone)
        self._backends = found
        if not self._begun:
            self._clear_others()
        self._begun = True
        for backend in found.values():
            if backend.check is None and backend.checked.health != "unknown":
                self._change(backend, "it is not checked any more", health="unknown")
            if backend.rule is None and backend.ejection.until_ns:
                self._end_ejection(backend.number, "`eject` is off")
            self._drain_or_keep(backend)
            self._publish(backend)
        self._probe()

    def _probe(self) -> None:
        self._probing.use(dict(self._checkable()))

    def _checkable(self) -> Iterator[tuple[int, Checkable]]:
        workers = self._workers
        for name, upstream in workers.config.upstreams.items():
            if upstream.health_check is None:
                continue
            tls = tls_of(upstream, workers.certificates)
            for each in workers.backends_of(workers.config, name):
                number = self._state.registry.backend(name, str(each.address))
                if number in self._backends:
                    yield (
                        number,
                        Checkable(name, each.address, upstream.health_check, tls, upstream.proxy_protocol),
                    )

    def use_names(self, names: Mapping[str, tuple[str, ...]]) -> None:
        """Check backends at these addresses from now on. :param names: IP addresses by name"""
        self._probing.probes.use_names(names)

    def use_certificates(self) -> None:
        """Check backends with the certificates that workers use now."""
        self._probe()

    async def close(self) -> None:
        """Change nothing more."""
        for backend in self._backends.values():
            if backend.timer is not None:
                backend.timer.cancel()
        await self._probing.close()

    # --- health checks ------------------------------------------------------------------------------------------------

    def _checked(self, number: int, failure: CheckFailed | None) -> None:
        backend = self._backends.get(number)
        if backend is None or backend.check is None:
            return
        result = "passed" if failure is None else "timeout" if failure.late else "failed"
        self._state.health_checks[backend.upstream, backend.address, result] += 1
        before = backend.checked.health
        check = backend.check
        if not backend.checked.result(failure is None, check.healthy_after, check.unhealthy_after):
            return
        health, backend.checked.health = backend.checked.health, before
        if failure is not None:
            reason = f"health check failed {_times(check.unhealthy_after)}: {failure}"
            log.warning("backend %s of %s is down: %s", backend.address, backend.upstream, reason)
        else:
            reason = f"health check passed {_times(check.healthy_after)}"
            after = f" after {time.monotonic() - backend.since:.1f} s" if before == "down" and backend.since else ""
            log.info("backend %s of %s is up%s: %s", backend.address, backend.upstream, after, reason)
        self._change(backend, reason, health=health)
        self._drain_or_keep(backend)

    def _drain_or_keep(self, backend: _Backend) -> None:
        """Drain the tunnels of a backend that is down, where that is wanted; undo it when it is up."""
        state = self._state
        drain = state.drained_backends.get(backend.number)
        wanted = backend.is_down and backend.check is not None and backend.check.on_down == "drain"
        one = frozenset((backend.number,))
        if wanted and drain is None:
            settings = self._workers.config.drain
            drain = DrainState(settings.period, state.table.live(backend.number), by_health=True)
            log.info(
                "draining %s of %s, which is down: %d tunnels over %g s",
                backend.address,
                backend.upstream,
                drain.tunnels,
                settings.period,
            )
            # Replace the mapping: a thread may be reading the old one.
            state.drained_backends = {**state.drained_backends, backend.number: drain}
            self._workers.send_to_all(DrainBackends(one, settings.period, settings.close_code))
        elif not wanted and drain is not None and drain.by_health:
            state.drained_backends = {n: each for n, each in state.drained_backends.items() if n != backend.number}
            self._workers.send_to_all(KeepBackends(one))

    # --- failures -----------------------------------------------------------------------------------------------------

    def failed(self, counts: Mapping[int, int]) -> None:
        """Take the failures that a worker reports. :param counts: by the backends' numbers"""
        now_ns = time.monotonic_ns()
        for number, count in counts.items():
            backend = self._backends.get(number)
            if backend is None or backend.rule is None or count < 1:
                continue
            others = {
                each.number: each
                for each in self._backends.values()
                if each.upstream == backend.upstream
                and not each.drain
                and each.number not in self._state.drained_backends
            }
            if number not in others:
                continue
            ejections = {n: each.ejection for n, each in others.items()}
            down = {n for n, each in others.items() if each.is_down}
            decision = decide(ejections, number, count, backend.rule, now_ns, down)
            if decision == "eject":
                self._eject(backend, backend.rule, now_ns)
            elif decision == "spare":
                self._spare(backend, backend.rule, now_ns, sum(each.is_out for each in others.values()), len(others))

    def _eject(self, backend: _Backend, rule: Rule, now_ns: int) -> None:
        backend.ejection.eject(rule, now_ns)
        until_ns = backend.ejection.until_ns
        self._state.ejections[backend.upstream, backend.address, "ejected"] += 1
        reason = f"{_failures(rule)} within {rule.within_ns / NS:g} s"
        log.warning(
            "ejected backend %s of %s for %g s: %s",
            backend.address,
            backend.upstream,
            (until_ns - now_ns) / NS,
            reason,
        )
        self._change(backend, reason)
        self._set_timer(backend)

    def _spare(self, backend: _Backend, rule: Rule, now_ns: int, out: int, total: int) -> None:
        """Say that a backend ought to be ejected and is not, as too few would be left."""
        if backend.spared_ns and now_ns - backend.spared_ns < rule.for_ns:
            return
        backend.spared_ns = now_ns
        self._state.ejections[backend.upstream, backend.address, "prevented"] += 1
        log.warning(
            "backend %s of %s has %s within %g s and stays in service: %d of %d backends are out already, and"
            " half of them are never ejected",
            backend.address,
            backend.upstream,
            _failures(rule),
            rule.within_ns / NS,
            out,
            total,
        )

    def _set_timer(self, backend: _Backend) -> None:
        seconds = max(0.0, (backend.ejection.until_ns - time.monotonic_ns()) / NS)
        loop = asyncio.get_running_loop()
        backend.timer = loop.call_later(seconds, self._end_ejection, backend.number, "its ejection is over")

    def _end_ejection(self, number: int, reason: str) -> None:
        backend = self._backends.get(number)
        if backend is None or not backend.ejection.until_ns:
            return
        if backend.timer is not None:
            backend.timer.cancel()
            backend.timer = None
        was_out = backend.is_out
        backend.ejection.end(time.monotonic_ns())
        still = ", but it is down" if backend.is_down else ""
        log.info("backend %s of %s is back: %s%s", backend.address, backend.upstream, reason, still)
        self._change(backend, reason, was_out=was_out)

    # --- states -------------------------------------------------------------------------------------------------------

    def _new(self, number: int, upstream: str, address: str) -> _Backend:
        """A backend that is new here. At the start, with the state that the table has of it."""
        table = self._state.table
        at = table.state_at(number)
        if self._begun:
            table.cells[at : at + STATE_CELLS] = memoryview(bytes(8 * STATE_CELLS)).cast("q")
            table.cells[at + S_RETURNED_NS] = time.monotonic_ns()
            table.cells[H_STATES] += 1
            return _Backend(number, upstream, address, False, None, None, Checked(), Ejection())
        health = FROM_TABLE.get(table.cells[at + S_HEALTH], "unknown")
        ejection = Ejection(table.cells[at + S_EJECTED_NS])
        backend = _Backend(number, upstream, address, False, None, None, Checked(health), ejection)
        if backend.is_out:
            backend.reason = "as before the supervisor was replaced"
        if ejection.until_ns:
            self._set_timer(backend)
        return backend

    def _forget(self, backend: _Backend) -> None:
        """A backend is gone. Its number may get another one later."""
        if backend.timer is not None:
            backend.timer.cancel()
        self._clear(backend.number)
        self._state.backend_states.pop(backend.number, None)

    def _clear_others(self) -> None:
        """Clear the states of numbers that no backend has, as a previous supervisor left them."""
        for number in range(len(self._state.registry.backends)):
            if number not in self._backends:
                self._clear(number)

    def _clear(self, number: int) -> None:
        table = self._state.table
        at = table.state_at(number)
        table.cells[at : at + STATE_CELLS] = memoryview(bytes(8 * STATE_CELLS)).cast("q")
        table.cells[H_STATES] += 1

    def _change(
        self, backend: _Backend, reason: str, *, health: Health | None = None, was_out: bool | None = None
    ) -> None:
        """Change a state, and write it into the table.

        :param health: the new one by its checks; None if that stays
        :param was_out: whether it was out of service before, if that has changed here already
        """
        was_out = backend.is_out if was_out is None else was_out
        if health is not None:
            backend.checked.health = health
        backend.reason, backend.since = reason, time.monotonic()
        table = self._state.table
        cells, at = table.cells, table.state_at(backend.number)
        cells[at + S_HEALTH] = IN_TABLE[backend.checked.health]
        cells[at + S_EJECTED_NS] = backend.ejection.until_ns
        if was_out and not backend.is_out:
            cells[at + S_RETURNED_NS] = time.monotonic_ns()
        cells[at + S_SINCE_UNIX_NS] = time.time_ns()
        cells[H_STATES] += 1  # last: workers look at the others when this has changed
        self._publish(backend)

    def _publish(self, backend: _Backend) -> None:
        """Show it to the admin API and to metrics."""
        table = self._state.table
        at = table.state_at(backend.number)
        until_ns = backend.ejection.until_ns
        self._state.backend_states[backend.number] = BackendState(
            None if backend.check is None else backend.checked.health,
            table.cells[at + S_SINCE_UNIX_NS] / NS or None,
            backend.reason,
            time.time() + (until_ns - time.monotonic_ns()) / NS if until_ns else None,
        )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _failures(rule: Rule) -> str:
    return f"{rule.failures} failure{'s' * (rule.failures != 1)}"


def _rule_of(upstream: Upstream) -> Rule | None:
    eject = upstream.eject
    return None if eject is None else Rule(eject.failures, int(eject.within * NS), int(eject.for_ * NS))
