"""A real gateway, run as users run it: a file, a command, signals; then its log, its metrics and its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.deadline import DEADLINE_SECONDS, eventually
from tests.support.launcher import launcher
from tests.support.memory import private_bytes
from tests.support.netns import Namespace
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.raw import Connection, connect
from tests.support.rest import stop_at_rest
from tests.support.scrape import Scrape

COMMAND = (sys.executable, "-m", "gateway")
NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
"""A gateway looks at none, but aiohttp reads all of the machine's when it is imported: a tenth of a start."""

BASE_ENV = {"PYTHONWARNINGS": "default", **NO_CERTIFICATES}
"""Of every gateway, beside the variables of the tests."""

_ALARMING = re.compile(
    r"Traceback \(most recent|ResourceWarning|RuntimeWarning|Exception ignored|was never retrieved"
    r"| (ERROR|CRITICAL) gateway\["
)

# A process that ends at once closes nothing that its end closes anyway.
_ALARMING_AT_THE_END = re.compile(r"Traceback \(most recent|RuntimeWarning| (ERROR|CRITICAL) gateway\[")

Config = dict[str, Any]
Record = dict[str, Any]

NO_PINGS: Config = {"keepalive": {"client": "off", "backend": "off"}}
"""For ends that do not answer them."""


def route(name: str, upstream: str, path: str | None = None, **keys: Any) -> Config:
    """A route of a configuration. :param path: defaults to ``/`` and its name"""
    return {"name": name, "match": {"path": f"/{name}" if path is None else path}, "upstream": upstream, **keys}


def to_one(backend: str, **keys: Any) -> Config:
    """A configuration with one route, ``all``, to one backend. :param keys: more of the configuration"""
    return {"upstreams": {"one": {"backends": [backend]}}, "routes": [route("all", "one", "/")], **keys}


def complete(config: Mapping[str, Any]) -> Config:
    """A configuration with addresses on free ports, and one worker, where it does not say otherwise."""
    return {
        "workers": 1,
        "listen": [{"address": f"127.0.0.1:{free_port()}"}],
        "admin": {"address": f"127.0.0.1:{free_port()}"},
        **config,
    }


async def command(
    *arguments: str | Path, env: Mapping[str, str] | None = None, seconds: float = 2 * DEADLINE_SECONDS
) -> tuple[int, str, str]:
    """Run a command of the gateway's command line to its end: exit status, stdout, stderr.

    :param env: variables beside those of the tests
    """
    base = {**os.environ, **BASE_ENV}
    process = await Process.launch(launcher(base), arguments, {**base, **(env or {})})
    return await process.output(seconds)


class Gateway:
    """One running gateway."""

    def __init__(self, process: Process, file: Path, config: Config, namespace: Namespace | None = None) -> None:
        self.process = process
        self.file = file
        self.config = config
        self.stderr = process.stderr
        self.stdout = process.stdout
        self._expected_status: int | None = None
        self._expected_lines: list[re.Pattern[str]] = []
        self._checked_lines = 0
        self._first_lines: dict[str, int] = {}
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=(lambda info: namespace.socket(info[0])) if namespace else None
            ),
            timeout=aiohttp.ClientTimeout(total=DEADLINE_SECONDS),
        )

    @classmethod
    async def start(
        cls,
        config: Mapping[str, Any],
        directory: Path,
        env: Mapping[str, str] | None = None,
        ready: bool = True,
        namespace: Namespace | None = None,
        descriptors: int | None = None,
        under: Sequence[str | Path] = (),
        pass_fds: Collection[int] = (),
        fresh: bool = False,
    ) -> Gateway:
        """Run a gateway with this configuration.

        :param directory: where the configuration is written to
        :param descriptors: the limit of them that it is given, if not that of the tests
        :param ready: wait until every worker accepts connections
        :param namespace: where it runs; None for where the tests do
        :param under: a command that the gateway's is an argument of
        :param pass_fds: descriptors that this command gets, with the numbers that they have here
        :param fresh: executed, not forked, so that its supervisor shares no memory with others
        """
        whole = complete(config)
        file = directory / "gateway.yaml"
        file.write_text(yaml.safe_dump(whole, sort_keys=False))
        arguments = ("run", "-c", file)
        base = {**os.environ, **BASE_ENV}
        all_env = {**base, **(env or {})}
        if not (fresh or under or pass_fds or namespace) and launcher(base).fits(all_env):
            process = await Process.launch(launcher(base), arguments, all_env, descriptors)
        else:
            limited = () if descriptors is None else ("sh", "-c", f'ulimit -n {descriptors} && exec "$0" "$@"')
            whole_command = (*limited, *under, *COMMAND, *arguments)
            process = await Process.start(
                *(namespace.command(*whole_command) if namespace else whole_command),
                env=all_env,
                name="gateway",
                pass_fds=pass_fds,
            )
        gateway = cls(process, file, whole, namespace)
        if ready:
            try:
                await gateway.stderr.containing("ready: ")
            except BaseException:
                await gateway._http.close()
                await process.end(signal.SIGKILL)
                raise
        return gateway

    # --- where it is -------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The first address that it listens on."""
        found: str = self.config["listen"][0]["address"]
        return found

    @property
    def admin(self) -> str:
        """Its admin address."""
        found: str = self.config["admin"]["address"]
        return found

    def ws(self, path: str = "/") -> str:
        """A URL for a WebSocket client."""
        return f"ws://{self.address}{path}"

    def http(self, path: str = "/") -> str:
        """A URL for plain HTTP."""
        return f"http://{self.address}{path}"

    async def connect(self) -> Connection:
        """A connection to it."""
        at = len(self.stdout.lines)
        connection = await connect(self.address)
        if not self.address.startswith("unix:"):
            self._first_lines[connection.name] = at
        return connection

    # --- what it says ------------------------------------------------------------------------------------------------

    async def logged(self, **fields: object) -> Record:
        """The first line of the access log (in JSON, on stdout) that has these fields, once it is there.

        That of a client is about its latest connection: sooner or later another one has had its port.
        """

        def match(line: str) -> Record | None:
            record: Record = json.loads(line)
            return record if all(record.get(key) == value for key, value in fields.items()) else None

        start = self._first_lines.get(str(fields.get("client")), 0)
        return await self.stdout.first(match, f"a line with {fields}", start)

    def log_records(self, **fields: object) -> list[Record]:
        """Lines of the access log that are there and have these fields. Of a client's, as :meth:`logged`."""
        start = self._first_lines.get(str(fields.get("client")), 0)
        records = [json.loads(line) for line in self.stdout.lines[start:]]
        return [record for record in records if all(record.get(key) == value for key, value in fields.items())]

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Ask the admin address: status and body."""
        async with self._http.get(f"http://{self.admin}{path}", headers=headers) as answer:
            return answer.status, await answer.text()

    async def api(self, path: str) -> Any:
        """Ask the admin API."""
        status, text = await self.get(f"/api/v1/{path}")
        assert status == 200, text
        return json.loads(text)

    async def post(self, path: str) -> tuple[int, Any]:
        """Tell the admin API to do something: status and answer."""
        async with self._http.post(f"http://{self.admin}/api/v1/{path}") as answer:
            return answer.status, await answer.json()

    async def scrape(self) -> Scrape:
        """Its metrics now."""
        status, text = await self.get("/metrics")
        assert status == 200, text
        return Scrape(text)

    async def until(self, true: Callable[[Scrape], object], what: str, seconds: float = DEADLINE_SECONDS) -> Scrape:
        """Scrape again and again until something is true of a scrape; return that one."""

        async def scraped() -> Scrape | None:
            scrape = await self.scrape()
            return scrape if true(scrape) else None

        return await eventually(scraped, what, seconds)

    async def counts(self, before: Scrape, name: str, by: float = 1, **labels: str) -> Scrape:
        """Wait until a counter has gone up by just this much since ``before``."""
        start = before.value(name, **labels)
        scrape = await self.until(
            lambda now: now.value(name, **labels) - start >= by, f"{name}{labels} to go up by {by} from {start}"
        )
        assert scrape.value(name, **labels) - start == by
        return scrape

    async def tunnels(self, count: int, **labels: str) -> Scrape:
        """Wait until just this many tunnels are open."""
        return await self.until(
            lambda scrape: scrape.value("gateway_tunnels", **labels) == count, f"gateway_tunnels{labels} to be {count}"
        )

    # --- its processes -----------------------------------------------------------------------------------------------

    async def worker_pids(self) -> list[int]:
        """By slot; those that are being replaced left out."""
        return [worker["pid"] for worker in (await self.api("status"))["workers"] if worker["pid"]]

    async def kill_worker(self, index: int = 0, in_store: bool = False) -> int:
        """Kill a worker with -9, when it has nothing of a tunnel in its hands; its pid.

        :param in_store: when every tunnel of it will go on, that is
        """
        pid: int = (await self.api("status"))["workers"][index]["pid"]
        self.tolerate("worker .* was killed by SIGKILL")
        await stop_at_rest(self.process.pid, pid, in_store)
        os.kill(pid, signal.SIGKILL)
        return pid

    async def replaced(self, pid: int, index: int = 0) -> None:
        """Wait until another worker serves in the place of one. :param index: its slot"""

        async def serves() -> bool:
            worker = (await self.api("status"))["workers"][index]
            return worker["ready"] and worker["pid"] != pid

        await eventually(serves, f"another worker in the place of {pid}")

    async def memory(self) -> int:
        """Private memory of all its processes, in bytes."""
        return sum(private_bytes(pid) for pid in (self.process.pid, *await self.worker_pids()))

    # --- what it is told ---------------------------------------------------------------------------------------------

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Put another configuration into its file: text as it is, anything else with the addresses it has."""
        if not isinstance(config, str):
            fixed = {key: self.config[key] for key in ("workers", "listen", "admin")}
            config = yaml.safe_dump({**fixed, **config}, sort_keys=False)
        self.file.write_text(config)

    async def reload(self) -> None:
        """HUP, and wait until it says how that went."""
        start = len(self.stderr.lines)
        self.process.signal(signal.SIGHUP)
        await self.stderr.first(
            lambda line: line if "reloaded" in line or "reload failed" in line else None, "an answer to HUP", start
        )

    def term(self) -> None:
        """TERM."""
        self.process.signal(signal.SIGTERM)

    async def exits(self, status: int, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait for its end, which has to be with this status, and, where nothing outlives it, for all that it said."""
        self._expected_status = status
        try:
            assert await self.process.exited(seconds) == status
        except AssertionError as error:
            raise AssertionError("\n".join((str(error), *self.stderr.lines[-20:]))) from None
        if status == 0:
            await self.stdout.end()
            await self.stderr.end()

    # --- its end -----------------------------------------------------------------------------------------------------

    def tolerate(self, pattern: str) -> None:
        """An error line of its log that matches is meant to be there."""
        self._expected_lines.append(re.compile(pattern))

    def check_log(self, alarming: re.Pattern[str] = _ALARMING) -> None:
        """:raises AssertionError: since the last check its log has a traceback, or an error that nobody expects"""
        start, self._checked_lines = self._checked_lines, len(self.stderr.lines)
        for at, line in enumerate(self.stderr.lines[start:], start):
            if alarming.search(line) and not any(pattern.search(line) for pattern in self._expected_lines):
                raise AssertionError("the gateway said:\n" + "\n".join(self.stderr.lines[at : at + 60]))

    async def stop(self) -> None:
        """End it if it runs, and check how that went."""
        await self._http.close()
        try:
            if self.process.status is None:
                self.check_log()
                self._expected_status = 0
                self.process.signal(signal.SIGINT)
                await self.process.exited()
        finally:
            await self.process.end(signal.SIGKILL)
        self.check_log(_ALARMING_AT_THE_END)
        assert self.process.status == self._expected_status, (
            f"the gateway exited with {self.process.status}, expected {self._expected_status}:\n"
            + "\n".join(self.stderr.lines[-40:])
        )
