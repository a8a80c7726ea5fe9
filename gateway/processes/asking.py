"""Asks name servers for backends: A, AAAA and SRV records (RFC 1035, RFC 2782), with their TTLs.

The system's ``getaddrinfo`` gives neither TTLs nor SRV records, so dnspython asks. It is imported when there is a
question. Files such as ``/etc/hosts`` are not looked at.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Container
from typing import TYPE_CHECKING

from gateway.config.address import Address
from gateway.config.settings_balancing import Backend
from gateway.processes.sources import Before, Found, NotFound, Source, in_order

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.resolver import Answer

TRY_SECONDS = 2.0
"""How long one name server may take."""

PATIENCE_SECONDS = 5.0
"""How long all of them may take together to answer one question."""

GRACE_SECONDS = 0.3
"""How long one type of record is waited for when there is an answer about the other one. What comes later counts then:
a change of A does not wait for AAAA."""

MOST_TARGETS = 256
"""Of SRV records, that are looked up."""


KINDS = ("A", "AAAA")


async def ask(source: Source, before: Before) -> Found:
    """Ask for backends. What cannot be had of the answer stays as it was: name servers, or what is on the way to them,
    that have no answer to one type of question for years, AAAA for instance, are common.

    :param before: what was found until now; the addresses of names are kept in it
    :raises NotFound: no name server answers, or the answer has no addresses
    """
    await asyncio.to_thread(importlib.import_module, "dns.asyncresolver")
    from dns.exception import DNSException

    try:
        asker = _Asker(source, before)
        found = await (asker.by_name() if source.kind == "dns" else asker.by_service())
    except (DNSException, OSError, ValueError) as error:
        raise NotFound(str(error) or type(error).__name__) from None
    if not found.backends:
        raise NotFound(found.mistake or "the answer has no addresses")
    return found


class _Asker:
    """Asks one source once."""

    def __init__(self, source: Source, before: Before) -> None:
        """:raises DNSException: the system has no name servers"""
        from dns.asyncresolver import Resolver

        self._source = source
        self._before = before
        self._mistake: str | None = None
        self._resolver: Resolver = Resolver(configure=source.server is None)  # anew: resolv.conf may have changed
        if source.server is not None:
            assert source.server.host is not None
            assert source.server.port is not None
            self._resolver.nameservers = [source.server.host]
            self._resolver.port = source.server.port
        self._resolver.timeout = TRY_SECONDS
        self._resolver.lifetime = PATIENCE_SECONDS

    async def by_name(self) -> Found:
        """The addresses of a name. :raises DNSException: no answer can be used"""
        source = self._source
        addresses, ttl = await self._addresses(source.name, {source.port})
        return Found(in_order(_backend(address, source.port) for address in addresses), ttl, self._mistake)

    async def by_service(self) -> Found:
        """The targets of SRV records. :raises DNSException: no answer can be used"""
        from dns.exception import DNSException
        from dns.resolver import NXDOMAIN

        answer = await self._question(self._source.name, "SRV")
        records = sorted(
            (record.priority, -record.weight, record.target.to_text(omit_final_dot=True).lower(), record.port)
            for record in answer.rrset or ()
            if record.port and record.target.labels != (b"",)  # a dot: there is no such service (RFC 2782)
        )
        ports: dict[str, set[int]] = {}
        for _, _, name, port in records:
            if name in ports or len(ports) < MOST_TARGETS:
                ports.setdefault(name, set()).add(port)
        looked_up = await asyncio.gather(
            *(self._addresses(name, each) for name, each in ports.items()), return_exceptions=True
        )
        ttl = _ttl(answer)
        addresses: dict[str, list[str]] = {}
        for name, found in zip(ports, looked_up, strict=True):
            if isinstance(found, NXDOMAIN):
                continue  # the others will do
            if isinstance(found, DNSException):
                addresses[name] = [each for kind in KINDS for each in self._kept(name, kind, ports[name], found)]
            elif isinstance(found, BaseException):
                raise found
            else:
                addresses[name] = found[0]
                ttl = min(ttl, found[1])
        before = self._before
        before.forget([key for key in (*before.addresses, *before.failing, *before.asked) if key[0] not in ports])
        lowest = min((priority for priority, _, name, _ in records if addresses.get(name)), default=0)
        backends = (
            _backend(address, port, weight=max(1, -weight), backup=priority != lowest)
            for priority, weight, name, port in records
            for address in addresses.get(name, ())
        )
        return Found(in_order(backends), ttl, self._mistake)

    async def _addresses(self, name: str, ports: Container[int]) -> tuple[list[str], float]:
        """Look up a name.

        :param ports: of the backends that have it
        :returns: IP addresses, perhaps none, and their TTL
        :raises DNSException: no answer
        """
        from dns.exception import DNSException
        from dns.resolver import NXDOMAIN

        before = self._before
        answers = await self._answers(name)
        good = [answer for answer in answers if answer is not None and _has_records(answer)]
        found: list[str] = []
        for kind, answer in zip(KINDS, answers, strict=True):
            if answer is None:
                found += before.addresses_of(name, kind, ports)
                self._mistake = self._mistake or before.failing.get((name, kind))
                continue
            if isinstance(answer, BaseException) and not (good and isinstance(answer, DNSException)):
                raise answer
            # A server that knows one kind and denies the name for the other is broken, but clear enough.
            if isinstance(answer, BaseException) and not isinstance(answer, NXDOMAIN):
                found += self._kept(name, kind, ports, answer)
                continue
            records = () if isinstance(answer, BaseException) else answer.rrset or ()
            addresses = before.addresses[name, kind] = [record.address for record in records]
            before.failing.pop((name, kind), None)
            found += addresses
        return found, min((_ttl(answer) for answer in good if not isinstance(answer, BaseException)), default=0.0)

    async def _answers(self, name: str) -> list[Answer | BaseException | None]:
        """What is said of a name, for each of ``KINDS``; None for what has not come yet, beside a good answer."""
        before = self._before
        questions: list[asyncio.Task[Answer]] = []
        for kind in KINDS:
            asked = (name, kind) in before.asked
            questions.append(
                before.asked.pop((name, kind)) if asked else asyncio.create_task(self._question(name, kind))
            )
        try:
            done, left = await asyncio.wait(questions, return_when=asyncio.FIRST_COMPLETED)
            if left:
                is_good = any(each.exception() is None and _has_records(each.result()) for each in done)
                await asyncio.wait(left, timeout=GRACE_SECONDS if is_good else None)
        except asyncio.CancelledError:
            for question in questions:
                question.cancel()
            raise
        answers: list[Answer | BaseException | None] = []
        for kind, question in zip(KINDS, questions, strict=True):
            if question.done():
                answers.append(question.exception() or question.result())
            else:
                before.wait_for((name, kind), question)
                answers.append(None)
        return answers

    def _kept(self, name: str, kind: str, ports: Container[int], error: BaseException) -> list[str]:
        """The addresses of a name from before, as a question about it has failed."""
        text = self._before.failing[name, kind] = str(error) or type(error).__name__
        self._mistake = self._mistake or text
        return self._before.addresses_of(name, kind, ports)

    async def _question(self, name: str, kind: str) -> Answer:
        """Ask one question. An answer may be empty. :raises DNSException: there is none"""
        return await self._resolver.resolve(
            name,
            kind,
            raise_on_no_answer=False,
            search=self._source.server is None,
        )


def _has_records(answer: Answer | BaseException) -> bool:
    return not isinstance(answer, BaseException) and bool(answer.rrset)


def _ttl(answer: Answer) -> float:
    """Of the whole chain of aliases."""
    return float(answer.chaining_result.minimum_ttl)


def _backend(host: str, port: int, weight: int = 1, backup: bool = False) -> Backend:
    return Backend(Address(host, port), weight, None, backup, False)
