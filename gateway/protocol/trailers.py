"""Trailer fields that are not relayed (RFC 9110 section 6.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.protocol.heads import plain_name

if TYPE_CHECKING:
    from collections.abc import Container

    from gateway.protocol.bodies import Chunked


class Trailers:
    """Takes fields out of the trailers of one body in chunks. Trailers are held back until they are complete."""

    __slots__ = ("_body", "_held", "_without")

    def __init__(self, body: Chunked, without: Container[bytes]) -> None:
        """
        :param body: that bounds the size of its trailers
        :param without: names of fields, as of :func:`plain_name`
        """
        self._body = body
        self._without = without
        self._held = b""

    def relayed(self, data: bytes, start: int, end: int) -> bytes:
        """What is sent of ``data[start:end]``, which the body has just scanned."""
        at = self._body.trailer
        if at < 0:
            return data[start:end]
        self._held += data[at:end]
        return data[start:at] + self._rest() if self._body.complete else data[start:at]

    def _rest(self) -> bytes:
        lines = self._held.split(b"\r\n")
        return b"\r\n".join(
            line for line in lines if not line or plain_name(line.partition(b":")[0]) not in self._without
        )
