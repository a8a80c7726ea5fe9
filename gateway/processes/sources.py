"""Where backends are found: one name server's answer to one question, or one file; and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gateway.config.address import Address
from gateway.config.settings_balancing import Backend
from gateway.processes.control.plain import form_of

if TYPE_CHECKING:
    from gateway.config.schema import Config, Discover


class Source(NamedTuple):
    """Where backends are found. Upstreams that find theirs in the same way share one."""

    kind: Literal["dns", "srv", "file"]
    name: str
    """of a host, of SRV records, or of a file"""
    port: int
    """of backends that have no other; 0 for none"""
    every: float
    """seconds between two questions at most"""
    server: Address | None
    """the name server; None for those of the system"""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}:{self.port}" if self.port else f"{self.kind} {self.name}"

    @classmethod
    def of(cls, discover: Discover) -> Source:
        """The source of an upstream's configuration."""
        if discover.dns is not None:
            assert discover.dns.host is not None
            assert discover.dns.port is not None
            return cls("dns", discover.dns.host, discover.dns.port, discover.every, discover.server)
        if discover.srv is not None:
            return cls("srv", discover.srv, 0, discover.every, discover.server)
        assert discover.file is not None
        return cls("file", discover.file, 0, 0, None)


class Found(NamedTuple):
    """What a name server has answered."""

    backends: tuple[Backend, ...]
    ttl: float
    """seconds"""
    mistake: str | None = None
    """why a part of the answer is from before"""


@dataclass
class Before:
    """What was found at a source until now: it stands in for what cannot be had of the next answer."""

    backends: tuple[Backend, ...] | None = None
    """None before the first answer"""
    addresses: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """of names, by name and type of record; nothing of what a previous supervisor has asked"""
    failing: dict[tuple[str, str], str] = field(default_factory=dict)
    """why the latest question failed, by the same"""
    asked: dict[tuple[str, str], asyncio.Task[Any]] = field(default_factory=dict)
    """questions that are not answered yet, by the same"""
    came: asyncio.Event = field(default_factory=asyncio.Event)
    """set when one of them was answered"""

    def wait_for(self, key: tuple[str, str], question: asyncio.Task[Any]) -> None:
        """Go on without the answer to a question, and have ``came`` set when it is there."""
        self.asked[key] = question
        question.add_done_callback(self._answered)

    def _answered(self, question: asyncio.Task[Any]) -> None:
        if not question.cancelled() and question.exception() is None:
            self.came.set()

    def forget(self, keys: Iterable[tuple[str, str]]) -> None:
        """Have no answers to these questions any more, and wait for none."""
        for key in list(keys):
            self.addresses.pop(key, None)
            self.failing.pop(key, None)
            if (question := self.asked.pop(key, None)) is not None:
                question.cancel()

    def close(self) -> None:
        """Wait for no answer any more."""
        self.forget([*self.asked])

    def addresses_of(self, name: str, kind: str, ports: Container[int]) -> list[str]:
        """Addresses that a name had when it was asked for last.

        :param kind: of records
        :param ports: of the backends that have the name
        """
        found = self.addresses.get((name, kind))
        if found is not None:
            return found
        hosts = [each.address.host for each in self.backends or () if each.address.port in ports]
        return [host for host in hosts if host is not None and (":" in host) == (kind == "AAAA")]


class NotFound(Exception):
    """A source cannot be asked, or names no backend; ``str()`` says why."""


Answers = dict[Source, tuple[Backend, ...]]
_FORM = form_of(list[tuple[Source, tuple[Backend, ...]]])


def sources_of(config: Config) -> dict[str, Source]:
    """The sources of upstreams, by their names."""
    return {
        name: Source.of(upstream.discover)
        for name, upstream in config.upstreams.items()
        if upstream.discover is not None
    }


def to_plain(answers: Answers) -> Any:
    """Return answers as plain data for JSON."""
    return _FORM.encoded(list(answers.items()))


def from_plain(data: Any) -> Answers:
    """Read what :func:`to_plain` has made. :raises ValueError: it is of another form"""
    return dict(_FORM.decoded(data))


def in_order(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """Return backends in an order that does not depend on that of an answer, each address once: the first one's."""
    found: dict[Address, Backend] = {}
    for backend in backends:
        found.setdefault(backend.address, backend)
    return tuple(sorted(found.values(), key=lambda backend: str(backend.address)))
