"""A name server on 127.0.0.1, for upstreams whose `discover` has its address as `server`."""

from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = dict[tuple[str, str], list[str]]


class DnsServer(asyncio.DatagramProtocol):
    """Answers with the records that it has (RFC 1035)."""

    def __init__(self) -> None:
        self.records: Records = {}
        """texts by name and type: ``{("chat.internal", "A"): ["127.0.0.1"]}``"""
        self.ttl = 1
        self.silent = False
        self.failing = False
        """whether each answer is SERVFAIL"""
        self.asked: list[tuple[str, str]] = []
        self.address = ""
        self._port = 0

    @classmethod
    async def start(cls) -> DnsServer:
        """Start one."""
        made = cls()
        await made.up()
        return made

    async def up(self) -> None:
        """Answer at the same address as before."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", self._port))
        self._port = transport.get_extra_info("sockname")[1]
        self.address = f"127.0.0.1:{self._port}"

    def down(self) -> None:
        """Go away: questions get an ICMP error."""
        self._transport.close()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # it is one
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if self.silent:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        texts = self.records.get((name, kind))
        if self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif texts:
            answer.answer.append(dns.rrset.from_text_list(question.name, self.ttl, "IN", kind, texts))
        elif all(each != name for each, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), address)
