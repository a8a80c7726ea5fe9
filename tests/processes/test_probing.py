"""When backends are checked: each at its own pace, whatever happens to the others."""

import asyncio
import logging
from collections import Counter

from gateway.config.address import parse_backend
from gateway.config.health import HealthCheck
from gateway.processes import probing
from gateway.processes.probes import Checkable, CheckFailed
from gateway.processes.probing import Probing
from tests.support.deadline import eventually, quiet_for

ODD = "ZeroDivisionError in the gateway"


def checkable(port, every="100ms"):
    return Checkable("chat", parse_backend(f"127.0.0.1:{port}"), HealthCheck(tcp=True, every=every), None, None)


class Probes:
    """Port 1 is good, 2 fails, 3 hangs, 4 raises."""

    def __init__(self):
        self.asked = Counter()
        self.hanging = 0

    def use_tls(self, settings):
        pass

    async def check(self, backend):
        port = backend.address.port
        self.asked[port] += 1
        if port == 2:
            raise CheckFailed("it answered 500")
        if port == 3:
            self.hanging += 1
            await asyncio.Event().wait()
        if port == 4:
            raise ZeroDivisionError


async def test_one_check_never_stops_the_others(caplog):
    results = Counter()
    made = Probing(lambda number, failure: results.update([(number, str(failure))]))
    made.probes = probes = Probes()
    made.use({number: checkable(number) for number in (1, 2, 3, 4)})
    await eventually(
        lambda: min(results[1, "None"], results[2, "it answered 500"], results[4, ODD]) >= 3, "three checks of each"
    )
    assert (probes.asked[3], probes.hanging) == (1, 1)
    assert any("health check of 127.0.0.1:4 of chat: unexpected error" in each for each in caplog.messages)
    caplog.clear()

    made.use({1: checkable(1), 2: checkable(1)})
    gone = {key: count for key, count in results.items() if key[0] in (3, 4)}
    await eventually(lambda: results[2, "None"] >= 2, "checks as they are now")
    assert {key: count for key, count in results.items() if key[0] in (3, 4)} == gone
    await made.close()
    count = results.total()
    await quiet_for(0.25)
    assert results.total() == count


async def test_only_so_many_at_once(monkeypatch, caplog):
    monkeypatch.setattr(probing, "AT_ONCE", 5)
    caplog.set_level(logging.CRITICAL)
    made = Probing(lambda number, failure: None)
    made.probes = probes = Probes()
    made.use({number: checkable(3) for number in range(20)})
    await eventually(lambda: probes.hanging == 5, "the first checks")
    await quiet_for(0.3)
    assert probes.hanging == 5
    await made.close()
