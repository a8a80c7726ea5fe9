"""Faults of a row: ours does not do what the table says, or the table does not explain a peer."""

from __future__ import annotations

from collections.abc import Mapping

from tests.peers.differential.rows import Row
from tests.peers.differential.sights import HAPROXY, NGINX, OURS, Sight, differences


def faults(row: Row, sights: Mapping[str, Sight]) -> list[str]:
    """All faults, in words. :param sights: of each proxy, by name"""
    ours = sights[OURS]
    found = [
        f"ours: {what} {is_!r}, which should be {right!r}"
        for what, is_, right in (
            ("the backend got", ours.exact_requests(), row.expected),
            ("the client got", ours.exact_answers(), row.got),
            ("the client's connection is", ours.end, row.end),
        )
        if is_ != right
    ]
    for peer, reason in ((NGINX, row.nginx), (HAPROXY, row.haproxy)):
        unlike = differences(ours, sights[peer])
        if unlike and not reason:
            found += [f"{peer}, without a reason: {difference}" for difference in unlike]
        elif reason and not unlike:
            found.append(f"{peer} does the same, where the row has a reason for a difference: {reason}")
    return found
