"""What a user installs: the wheel, built with a compiler and without one, in an empty environment of its own.

This is also what the Dockerfile runs. It takes the network where pip has nothing cached. With ``GATEWAY_SOAK=1`` the C
compiler runs, too, which takes a minute; otherwise the wheel is made of what ``make install`` has compiled.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import aiohttp
import pytest
import pytest_asyncio
import yaml

from tests.packaging.files import ROOT, compose, health_check, instructions
from tests.support.deadline import SCALE, SOAK
from tests.support.frames import TEXT, frame, from_client
from tests.support.gateway import complete, route
from tests.support.ports import free_port
from tests.support.process import Process, run
from tests.support.raw import ACCEPT, connect, handshake
from tests.support.scrape import Scrape

MINUTES = 60 * SCALE
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(20 * MINUTES),
    pytest.mark.skipif(os.environ.get("GATEWAY_RELAY") == "pure", reason="builds both, whatever runs the tests"),
]

SOURCES = ("gateway", "pyproject.toml", "setup.py", "README.md", "LICENSE")
BUILT = ("*.so", "__pycache__")
"""What is left out. C sources that Cython has made of these very files are as good as new ones, and half the time."""

COMPILED = {
    "gateway/edge/splicing",
    "gateway/edge/tls/callback",
    "gateway/observe/batch",
    "gateway/observe/ends",
    "gateway/observe/forms",
    "gateway/observe/handshakes",
    "gateway/observe/line",
    "gateway/protocol/bodies",
    "gateway/protocol/headers",
    "gateway/protocol/known_heads",
    "gateway/protocol/pings",
    "gateway/protocol/scanner",
    "gateway/protocol/tls/protection",
    "gateway/protocol/tls/records",
    "gateway/protocol/tls/traffic",
    "gateway/tunnels/relay/deadlines",
    "gateway/tunnels/relay/ending",
    "gateway/tunnels/relay/failing",
    "gateway/tunnels/relay/kernel",
    "gateway/tunnels/relay/limiting",
    "gateway/tunnels/relay/metering",
    "gateway/tunnels/relay/pinging",
    "gateway/tunnels/relay/reading",
    "gateway/tunnels/relay/relay",
    "gateway/tunnels/relay/sealed",
    "gateway/tunnels/relay/streams",
    "gateway/tunnels/table/slice",
    "gateway/tunnels/table/texts",
    "gateway/tunnels/upkeep/attribution",
    "gateway/tunnels/upkeep/sweep",
}
UNCOMPILED = "the relay runs uncompiled"
# What would have a gateway find another configuration, build or source than those of its wheel.
_MISLEADING = ("GATEWAY_BUILD", "GATEWAY_CONFIG", "GATEWAY_RELAY", "PYTHONPATH", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Installed:
    """A wheel, and where it is installed."""

    relay: str
    said: str
    """what pip said while it built the wheel"""
    wheel: Path
    bin: Path
    elsewhere: Path
    """an empty folder to run things in"""

    @property
    def contents(self) -> set[str]:
        """Names of the files in the wheel."""
        with zipfile.ZipFile(self.wheel) as file:
            return set(file.namelist())


def compiler() -> str:
    """The command of the C compiler, if there is one."""
    return os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"


def can_compile() -> bool:
    """Whether there are a compiler and Python's headers."""
    return shutil.which(compiler().split()[0]) is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


def _pip(*arguments: str | Path, env: Mapping[str, str]) -> str:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=15 * MINUTES, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*BUILT))
        else:
            shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment. The second wheel finds its dependencies there: to install them is half of the work."""
    venv = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=5 * MINUTES)
    return venv


def keep_compiled(source: Path) -> None:
    """Put modules that ``setup.py`` lists, compiled in this tree, where it finds that it has compiled them.

    It compiles those that are older than their C source, or missing.
    """
    listed = next(
        ast.literal_eval(node.value)
        for node in ast.parse((source / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    )
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    into = source / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    for name in listed:
        module = Path(name).with_suffix(suffix)
        if (ROOT / module).exists():
            (into / module).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / module, into / module)


def build(source: Path, directory: Path, with_compiler: bool) -> tuple[Path, str]:
    """Build the wheel; return it and what pip said.

    :param source: what Cython has made there is used again, and nothing else
    """
    wheels, empty = directory / "wheels", directory / "empty"
    empty.mkdir()
    shutil.rmtree(source / "build", ignore_errors=True)
    env = dict(os.environ)
    if not with_compiler:
        env |= {"PATH": str(empty), "CC": str(empty / "cc")}
    else:
        if not SOAK:
            keep_compiled(source)
        # Without optimizing, which is most of the work: how fast it gets does not matter here.
        quick = directory / "cc"
        quick.write_text(f'#!/bin/sh\nexec {compiler()} "$@" -O0\n')
        quick.chmod(0o755)
        env["CC"] = str(quick)
    # The build requirements are those of the environment that the tests run in: the Makefile installs them there.
    said = _pip("wheel", "-v", "--no-build-isolation", "--no-deps", "-w", wheels, source, env=env)
    (wheel,) = wheels.iterdir()
    return wheel, said


@pytest.fixture(scope="module", params=["compiled", "pure"])
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, source: Path, environment: Path
) -> Iterator[Installed]:
    """The wheel in an environment with nothing but its dependencies."""
    relay: str = request.param
    if relay == "compiled" and not can_compile():
        pytest.skip("there is no C compiler, or no Python.h")
    directory = tmp_path_factory.mktemp(f"wheel-{relay}")
    with pytest.MonkeyPatch.context() as patch:
        for name in _MISLEADING:
            patch.delenv(name, raising=False)
        wheel, said = build(source, directory, with_compiler=relay == "compiled")
        python = environment / "bin" / "python"
        _pip("--python", python, "install", "--quiet", wheel, env=os.environ)
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    yield Installed(relay, said, wheel, python.parent, elsewhere)
    _pip("--python", python, "uninstall", "--quiet", "--yes", "upgrade-gateway", env=os.environ)


@pytest.fixture(autouse=True)
def _not_misled(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _MISLEADING:
        monkeypatch.delenv(name, raising=False)


# --- what is in it ---------------------------------------------------------------------------------------------------


async def test_it_holds_the_package_and_nothing_else(installed: Installed) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gateway").rglob("*")
        if path.is_file() and not any(path.match(pattern) for pattern in ("*.so", "*.c", "*.pyc"))
    }
    modules = {name for name in installed.contents if name.endswith(".so")}
    others = {name for name in installed.contents - modules if ".dist-info/" not in name}
    assert others == sources
    assert {"gateway/py.typed", "gateway/demo/gateway.yaml", "gateway/admin/page/index.html"} <= others
    assert {name.partition(".")[0] for name in modules} == (COMPILED if installed.relay == "compiled" else set())
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in installed.contents)


async def test_the_install_says_whether_the_relay_is_compiled(installed: Installed) -> None:
    assert (UNCOMPILED in installed.said) == (installed.relay == "pure")


async def test_its_dependencies_are_all_there_and_fit(installed: Installed) -> None:
    status, _, _ = await run(
        [sys.executable, "-m", "pip", "--python", installed.bin / "python", "check"], seconds=MINUTES
    )
    assert status == 0


# --- what it does ----------------------------------------------------------------------------------------------------


async def test_the_image_is_only_built_with_the_relay_compiled(installed: Installed) -> None:
    """The Dockerfile's last step of the build, which fails where the relay is not compiled."""
    (code,) = [found for name, text in instructions() if name == "RUN" for found in re.findall(r'-P -c "(.*?)"', text)]
    status, _, _ = await run([installed.bin / "python", "-P", "-c", code], cwd=installed.elsewhere)
    assert (status == 0) == (installed.relay == "compiled")


async def test_its_default_configuration_is_right(installed: Installed) -> None:
    code = "from importlib.resources import files; print(files('gateway.demo') / 'gateway.yaml')"
    status, out, _ = await run([installed.bin / "python", "-P", "-c", code], cwd=installed.elsewhere)
    assert status == 0
    file = Path(out.strip())
    assert file.is_relative_to(installed.bin.parent)
    status, out, _ = await run([installed.bin / "gateway", "check", "-c", file], cwd=installed.elsewhere)
    assert status == 0
    assert out.startswith(f"{file}: ok: ")


class Demo:
    """A running ``gateway demo`` of an installed wheel."""

    def __init__(self, process: Process, address: str, admin: str) -> None:
        self.process = process
        self.address = address
        self.admin = admin

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the admin address."""
        async with aiohttp.ClientSession() as http, http.get(f"http://{self.admin}{path}") as answer:
            return answer.status, await answer.text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(installed: Installed) -> AsyncIterator[Demo]:
    """One on free ports."""
    config = complete(
        {
            "upstreams": {"echo": {"backends": [f"127.0.0.1:{free_port()}"]}},
            "routes": [route("all", "echo", "/")],
        }
    )
    file = installed.elsewhere / "demo.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        for name in _MISLEADING:
            patch.delenv(name, raising=False)
        process = await Process.start(
            installed.bin / "gateway", "demo", "-c", file, cwd=installed.elsewhere, name="gateway"
        )
    try:
        await process.stderr.containing("ready: ")
        yield Demo(process, config["listen"][0]["address"], config["admin"]["address"])
    finally:
        await process.end()


async def test_it_opens_a_tunnel(installed: Installed, demo: Demo) -> None:
    client = await connect(demo.address)
    await client.send(handshake("/chat"))
    head = await client.head()
    assert (head.status, head.value("sec-websocket-accept")) == (101, ACCEPT)
    await client.echoes(from_client(TEXT, b"hello"), frame(TEXT, b"hello"))
    await client.close()


async def test_it_says_which_relay_runs(installed: Installed, demo: Demo) -> None:
    status, text = await demo.get("/metrics")
    assert status == 200
    assert Scrape(text).value("gateway_build_info", relay=installed.relay) == 1


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/healthz", "/readyz", "/api/v1/status"])
async def test_it_serves_the_admin_address(demo: Demo, path: str) -> None:
    assert (await demo.get(path))[0] == 200


async def test_the_image_s_health_check_tells_a_gateway_from_none(installed: Installed, demo: Demo) -> None:
    python, *arguments = health_check()
    assert python == "python"
    for admin, healthy in ((demo.admin, True), (f"127.0.0.1:{free_port()}", False)):
        command = [argument.replace("9100", admin.rpartition(":")[2]) for argument in arguments]
        assert command != arguments
        status, _, _ = await run([installed.bin / "python", *command], cwd=installed.elsewhere)
        assert (status == 0) == healthy


async def test_the_backend_of_compose_echoes(installed: Installed) -> None:
    service = compose()["services"]["backend"]
    port = free_port()
    (python, *options), (code,) = service["entrypoint"], service["command"]
    assert python == "python"
    code = code.replace("9001", str(port))
    process = await Process.start(installed.bin / "python", *options, code, cwd=installed.elsewhere)
    try:
        await process.stdout.containing(f":{port}")
        client = await connect(f"127.0.0.1:{port}")
        await client.send(handshake("/"))
        assert (await client.head()).status == 101
        await client.close()
        check = [argument.replace("9001", str(port)) for argument in service["healthcheck"]["test"][2:]]
        status, _, _ = await run([installed.bin / "python", *check])
        assert status == 0
    finally:
        await process.end()


async def test_it_ends_when_told_to(demo: Demo) -> None:
    demo.process.signal(SIGTERM)
    assert await demo.process.exited(30 * SCALE) == 0
    lines = itertools.chain(demo.process.stdout.lines, demo.process.stderr.lines)
    assert not [line for line in lines if "Traceback" in line]
