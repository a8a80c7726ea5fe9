"""Processes that take at the same time: all together get exactly what one of them alone would get."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import pytest

from gateway.tunnels.quotas.quotas import Quotas

pytestmark = pytest.mark.either_build

PROCESSES, BURST, EACH = 4, 5000, 3000
TAKE = """
import sys
from ipaddress import ip_address
from gateway.tunnels.quotas.bucket import NS, Rate
from gateway.tunnels.quotas.clients import Client
from gateway.tunnels.quotas.quotas import Quotas
quotas, slot, each, burst = Quotas(int(sys.argv[1])), *map(int, sys.argv[2:])
share, client, rate = quotas.share(slot), Client.of(0, ip_address("192.0.2.1")), Rate(10**6 * NS, burst)
print("ready", flush=True)
sys.stdin.readline()
handshakes = sum(share.take_handshake(client, rate, NS) == 0 for _ in range(each))
tunnels = sum(share.take_tunnel(client, burst) is not None for _ in range(each))
print(handshakes, tunnels)
"""


def test_exact_however_many_take_at_once() -> None:
    with closing(Quotas.create(PROCESSES, 100)) as quotas:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", TAKE, *map(str, (quotas.fd, slot, EACH, BURST))],
                pass_fds=[quotas.fd],
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for slot in range(PROCESSES)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        found = [tuple(map(int, process.communicate()[0].split())) for process in processes]
        assert [process.returncode for process in processes] == [0] * PROCESSES
        assert tuple(map(sum, zip(*found, strict=True))) == (BURST, BURST), found
