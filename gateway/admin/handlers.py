"""The paths of the admin API that change something: reload, drain, upgrade, stop. The supervisor carries them out
(``operations.py``).

======================== =====================================================================================
``POST …/v1/reload``     read the configuration again, like ``HUP``; answers when that is done or refused
``POST …/v1/drain``      drain and exit, like ``TERM``, or drain one ``backend``; answers at once, or with
                         ``wait`` when the last tunnel has ended
``POST …/v1/rebalance`` move tunnels to the backends that ought to have them: of one ``upstream`` or of all, over
                         a ``period``, or with ``dry_run`` only plan that; answers at once
``POST …/v1/upgrade``    replace the program with the one that is installed now, like ``USR2``; answers when that has
                         succeeded or failed
``POST …/v1/stop``       exit at once, like ``INT``
======================== =====================================================================================

Parameters come from the query or from a JSON object in the body. Pages of other web sites cannot use these paths
(``origin.py``).
"""

from __future__ import annotations

import asyncio
import json
import os

from gateway.admin import api
from gateway.admin.messages import Handler, Request, Response, encoded, json_answer
from gateway.admin.operations import NotDone, Operations
from gateway.admin.rebalances import RebalanceAsked, rebalance
from gateway.admin.state import DrainState, GatewayState

LOOK_SECONDS = 0.1
"""How often to check a backend's tunnels while a client waits for the last one to end."""

DEFAULT_PERIOD = "2m"
"""Over which a rebalance closes tunnels."""

_TRUE = ("true", "1", "yes")
_FALSE = ("false", "0", "no")


class Handlers:
    """The handlers of the paths above."""

    def __init__(self, state: GatewayState, operations: Operations) -> None:
        self._state = state
        self._operations = operations

    def by_path(self) -> dict[str, Handler]:
        """Return the handlers, by path."""
        return {
            "/api/v1/reload": self.reload,
            "/api/v1/drain": self.drain,
            "/api/v1/rebalance": self.rebalance,
            "/api/v1/upgrade": self.upgrade,
            "/api/v1/stop": self.stop,
        }

    async def reload(self, request: Request) -> Response:
        _asked(request)
        await self._operations.reload()
        return _answer(200, {"reloaded": True, "time": self._state.last_reload_unix})

    async def upgrade(self, request: Request) -> Response:
        _asked(request)
        if request.socket is None or request.socket.fileno() < 0:
            raise NotDone("the client has disconnected")
        connection = os.dup(request.socket.fileno())
        try:
            await self._operations.upgrade(connection)
        finally:
            os.close(connection)
        return _answer(200, {"upgraded": True})

    async def stop(self, request: Request) -> Response:
        _asked(request)
        await self._operations.stop()
        return _answer(202, {"stopping": True})

    async def drain(self, request: Request) -> Response:
        asked = _asked(request, "backend", "wait")
        wait = _flag("wait", asked.get("wait", False))
        if "backend" in asked:
            backends = api.backend_numbers(str(asked["backend"]), self._state.registry)
            drains = await self._operations.drain_backends(backends)
            if wait:
                await self._until_unused(backends)
        else:
            drains = [await self._operations.drain()]
            if wait:
                await self._until_drained(*drains)
        return _answer(
            200 if wait else 202,
            {
                "done": wait,
                "tunnels": sum(drain.tunnels for drain in drains),
                "period": drains[0].period_seconds,
                "seconds": round(drains[0].seconds, 3),
            },
        )

    async def rebalance(self, request: Request) -> Response:
        asked = _asked(request, "upstream", "period", "dry_run")
        upstream = None if "upstream" not in asked else api.upstream_name(str(asked["upstream"]), self._state.config)
        period = api.seconds("period", str(asked.get("period", DEFAULT_PERIOD)))
        dry_run = _flag("dry_run", asked.get("dry_run", False))
        found = await self._operations.rebalance(RebalanceAsked(upstream, period, dry_run))
        upstreams: list[api.Json] = [rebalance(each) for each in found]
        return _answer(200 if dry_run else 202, {"dry_run": dry_run, "period": period, "upstreams": upstreams})

    async def _until_drained(self, drain: DrainState) -> None:
        await drain.over.wait()
        if drain.cut_short:
            raise NotDone("the drain was cut short: the gateway exits with tunnels open")

    async def _until_unused(self, backends: frozenset[int]) -> None:
        state = self._state
        while not state.stopping and backends <= state.drained_backends.keys():
            if not any(state.table.live(backend) for backend in backends):
                return
            await asyncio.sleep(LOOK_SECONDS)
        reason = "the gateway is shutting down" if state.stopping else "a reload has put the backend into service again"
        raise NotDone(f"the drain was cut short: {reason}")


def _asked(request: Request, *known: str) -> dict[str, object]:
    """Return a request's parameters. :raises api.BadQuery: one is unknown, or the body is not a JSON object"""
    asked: dict[str, object] = {}
    if request.body.strip():
        try:
            asked = json.loads(request.body)
        except (ValueError, RecursionError):
            raise api.BadQuery("the body is not JSON (a JSON object, or no body)") from None
        if not isinstance(asked, dict):
            raise api.BadQuery("the body is not a JSON object")
    return api.known_only([*request.query, *asked.items()], known)


def _flag(name: str, value: object) -> bool:
    text = str(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise api.BadQuery(f"{name} is {text} (true or false)")
    return text in _TRUE


def _answer(status: int, data: api.Object) -> Response:
    return json_answer(encoded(data), status)
