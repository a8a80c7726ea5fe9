"""How a supervisor gets the quotas: new ones, or those of the previous program in the same process."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from gateway.config.schema import Config
from gateway.edge.trust import Trust
from gateway.routing.registry import Registry
from gateway.tunnels.quotas.quotas import Quotas, Unusable
from gateway.tunnels.quotas.rows import CountedRows
from gateway.tunnels.table.table import Table

log = logging.getLogger("gateway")


def new_quotas(table: Table) -> Quotas:
    """Make quotas for the clients of a table."""
    return Quotas.create(table.slots, table.workers * table.rows_per_worker)


def inherit_quotas(fd: int, table: Table) -> tuple[Quotas, bool]:
    """Go on with the quotas of another program.

    :param fd: of them; negative if it had none
    :returns: those, or new ones in which nothing is counted; and whether they are new
    """
    if fd < 0:
        return new_quotas(table), True
    try:
        return Quotas.inherit(fd, table.slots, table.workers * table.rows_per_worker), False
    except (Unusable, OSError) as error:
        log.info("the previous program's counts of handshakes per client cannot be used and begin anew: %s", error)
        os.close(fd)
        return new_quotas(table), True


def count_tunnels(quotas: Quotas, table: Table, slots: Collection[int], config: Config, registry: Registry) -> None:
    """Count the tunnels in some slots, whose workers are not running, in new quotas."""
    routes = limited_routes(config, registry)
    if not routes:
        return
    for slot in slots:
        rows = CountedRows(quotas.share(slot), table, slot, Trust(()).address_of)
        rows.use(routes)
        if rows.uncounted:
            log.warning(
                "slot %d: no room to count %d tunnels: their clients may exceed tunnels_per_client; raise max_tunnels",
                slot,
                rows.uncounted,
            )


def limited_routes(config: Config, registry: Registry) -> frozenset[int]:
    """The numbers of routes whose tunnels are counted for each client."""
    return frozenset(
        registry.route(route.name)
        for route in config.routes
        if route.limits is not None and route.limits.tunnels_per_client is not None
    )
