"""The quotas of a supervisor: inherited where they can be, and otherwise counted again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from gateway.config import Config, parse
from gateway.processes.counting import count_tunnels, inherit_quotas, limited_routes, new_quotas
from gateway.routing.registry import Registry
from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.layout import CELL_BYTES, H_VERSION, SET_ENTRIES
from gateway.tunnels.quotas.quotas import Quotas
from gateway.tunnels.table.layout import LIVE, STATE
from gateway.tunnels.table.slice import Slice
from gateway.tunnels.table.table import Table
from tests.tunnels.quotas.made import same_set

pytestmark = pytest.mark.either_build

CONFIG = """
listen: [{address: "127.0.0.1:8080"}]
upstreams: {one: {backends: ["127.0.0.1:9"]}}
routes:
  - {name: free, match: {path: /free}, upstream: one}
  - {name: paced, match: {path: /paced}, upstream: one, limits: {handshakes_per_second: {per_client: 1}}}
  - {name: few, upstream: one, limits: {tunnels_per_client: 2}}
"""
FREE, PACED, FEW = range(3)


@pytest.fixture
def table() -> Iterator[Table]:
    with closing(Table.create(2, 200)) as made:
        yield made


@pytest.fixture
def config() -> Config:
    return parse(CONFIG, "gateway.yaml", {})


@pytest.fixture
def registry(config: Config) -> Registry:
    made = Registry(10, 10)
    made.admit(config)
    return made


def opened(slice_: Slice, client: str, route: int = FEW) -> None:
    row = slice_.allocate(route, 0)
    assert row is not None
    slice_.write_texts(row, **{"client": client.encode()})
    slice_.cells[row + STATE] = LIVE


def counted(quotas: Quotas, address: str, route: int = FEW) -> int:
    client = Client.of(route, ip_address(address))
    entry = quotas.entries.find(client, quotas.entries.set_of(client))
    return 0 if entry is None else quotas.entries.tunnels(entry)


def test_those_of_the_previous_program_go_on(table: Table) -> None:
    quotas = new_quotas(table)
    quotas.share(1).count_tunnel(Client.of(FEW, ip_address("192.0.2.1")))
    again, is_new = inherit_quotas(os.dup(quotas.fd), table)
    assert not is_new
    assert counted(again, "192.0.2.1") == 1
    again.close()
    quotas.close()


def test_a_program_without_quotas_leaves_none(table: Table) -> None:
    quotas, is_new = inherit_quotas(-1, table)
    assert is_new
    quotas.close()


def test_those_of_another_version_are_replaced(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway")
    quotas = new_quotas(table)
    quotas.share(1).count_tunnel(Client.of(FEW, ip_address("192.0.2.1")))
    os.pwrite(quotas.fd, b"\x07", H_VERSION * CELL_BYTES)
    fd = os.dup(quotas.fd)
    again, is_new = inherit_quotas(fd, table)
    assert is_new
    assert counted(again, "192.0.2.1") == 0
    assert "cannot be used and begin anew: another version wrote them" in caplog.text
    assert again.fd == fd  # the old ones are closed, and their number was free
    again.close()
    quotas.close()


def test_tunnels_of_limited_routes_are_counted_again(table: Table, config: Config, registry: Registry) -> None:
    assert limited_routes(config, registry) == {FEW}
    for slot, clients in ((0, ["192.0.2.1:80", "[2001:db8::7]:443", "unix"]), (1, ["192.0.2.1:81", "::ffff:c000:201"])):
        slice_ = Slice(table, slot)
        for client in clients:
            opened(slice_, client)
    opened(Slice(table, 2), "192.0.2.1")
    opened(Slice(table, 3), "192.0.2.1", PACED)
    with closing(new_quotas(table)) as quotas:
        count_tunnels(quotas, table, (0, 1, 3), config, registry)
        assert counted(quotas, "192.0.2.1") == 3
        assert counted(quotas, "2001:db8::1") == 1
        assert counted(quotas, "192.0.2.1", PACED) == 0
        assert quotas.share(0).take_tunnel(Client.of(FEW, ip_address("192.0.2.1")), 3) is None


def test_what_there_is_no_room_for_is_logged(
    table: Table, config: Config, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(new_quotas(table)) as quotas:
        slice_ = Slice(table, 0)
        for client in same_set(quotas, SET_ENTRIES + 1, FEW):
            opened(slice_, str(client))
        count_tunnels(quotas, table, (0,), config, registry)
    assert "slot 0: no room to count 1 tunnels" in caplog.text
