"""Asks name servers for backends: A, AAAA and SRV records (RFC 1035, RFC 2782), with their TTLs.

The system's ``getaddrinfo`` gives neither TTLs nor SRV records, so dnspython asks. It is imported when there is a
question. Files such as ``/etc/hosts`` are not looked at.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from gateway.config.address import Address
from gateway.config.settings_balancing import Backend
from gateway.processes.sources import Found, NotFound, Source, in_order

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.resolver import Answer

TRY_SECONDS = 2.0
"""How long one name server may take."""

PATIENCE_SECONDS = 5.0
"""How long all of them may take together to answer one question."""

MOST_TARGETS = 256
"""Of SRV records, that are looked up."""


async def ask(source: Source, incomplete: bool) -> Found:
    """Ask for backends.

    :param incomplete: whether part of an answer will do, if the rest cannot be had: there is none from before
    :raises NotFound: no name server answers, or the answer has no addresses
    """
    await asyncio.to_thread(importlib.import_module, "dns.asyncresolver")
    from dns.exception import DNSException

    try:
        asker = _Asker(source, incomplete)
        found = await (asker.by_name() if source.kind == "dns" else asker.by_service())
    except (DNSException, OSError, ValueError) as error:
        raise NotFound(str(error) or type(error).__name__) from None
    if not found.backends:
        raise NotFound("the answer has no addresses")
    return found


class _Asker:
    """Asks one source once."""

    def __init__(self, source: Source, incomplete: bool) -> None:
        """:raises DNSException: the system has no name servers"""
        from dns.asyncresolver import Resolver

        self._source = source
        self._incomplete = incomplete
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
        addresses, ttl = await self._addresses(source.name)
        return Found(in_order(_backend(address, source.port) for address in addresses), ttl)

    async def by_service(self) -> Found:
        """The targets of SRV records. :raises DNSException: no answer can be used"""
        from dns.exception import DNSException
        from dns.resolver import NXDOMAIN

        answer = await self._question(self._source.name, "SRV")
        records = sorted(
            (record.priority, -record.weight, record.target.to_text(omit_final_dot=True).lower(), record.port)
            for record in answer.rrset or ()
        )
        names = list(dict.fromkeys(name for _, _, name, port in records if name and port))[:MOST_TARGETS]
        looked_up = await asyncio.gather(*map(self._addresses, names), return_exceptions=True)
        ttl = _ttl(answer)
        addresses: dict[str, list[str]] = {}
        for name, found in zip(names, looked_up, strict=True):
            if isinstance(found, NXDOMAIN) or (isinstance(found, DNSException) and self._incomplete):
                continue  # the others will do
            if isinstance(found, BaseException):
                raise found
            addresses[name] = found[0]
            ttl = min(ttl, found[1])
        lowest = min((priority for priority, _, name, _ in records if addresses.get(name)), default=0)
        backends = (
            _backend(address, port, weight=max(1, -weight), backup=priority != lowest)
            for priority, weight, name, port in records
            for address in addresses.get(name, ())
        )
        return Found(in_order(backends), ttl)

    async def _addresses(self, name: str) -> tuple[list[str], float]:
        """Look up a name. :returns: IP addresses, perhaps none, and their TTL. :raises DNSException: no answer"""
        from dns.exception import DNSException
        from dns.resolver import NXDOMAIN

        answers = await asyncio.gather(
            *(self._question(name, kind) for kind in ("A", "AAAA")),
            return_exceptions=True,
        )
        good = [answer for answer in answers if not isinstance(answer, BaseException) and answer.rrset]
        for answer in answers:
            # A server that knows one kind and denies the name for the other is broken, but clear enough.
            if isinstance(answer, NXDOMAIN) and good:
                continue
            if isinstance(answer, DNSException) and good and self._incomplete:
                continue
            if isinstance(answer, BaseException):
                raise answer
        addresses = [record.address for answer in good for record in answer.rrset or ()]
        return addresses, min(map(_ttl, good), default=0.0)

    async def _question(self, name: str, kind: str) -> Answer:
        """Ask one question. An answer may be empty. :raises DNSException: there is none"""
        return await self._resolver.resolve(
            name,
            kind,
            raise_on_no_answer=False,
            search=self._source.server is None,
        )


def _ttl(answer: Answer) -> float:
    """Of the whole chain of aliases."""
    return float(answer.chaining_result.minimum_ttl)


def _backend(host: str, port: int, weight: int = 1, backup: bool = False) -> Backend:
    return Backend(Address(host, port), weight, None, backup, False)
