"""The command line, as users type it: output and exit status."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import Backends, Open, StartGateway
from tests.support.gateway import COMMAND, Gateway, to_one
from tests.support.gateway import command as quick_command
from tests.support.process import run
from tests.support.raw import handshake

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.either_build]

FIVE_MISTAKES = """\
workers: many
listen:
  - adress: 0.0.0.0:8080
timeouts:
  connect: 5 parsecs
upstreams:
  chat:
    backends: [127.0.0.1:99999]
routes:
  - name: chat
    upstream: chatt
"""


async def gateway_command(*arguments: str | Path, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run it as users do. Where it does not matter that it is executed, ``quick_command`` does."""
    return await run([*COMMAND, *arguments], env=env)


async def with_one_tunnel(gateway: Gateway, open_connection: Open) -> None:
    client = await open_connection(gateway)
    await client.send(handshake("/cli", "Sec-WebSocket-Protocol: v10.stomp"))
    assert (await client.head()).status == 101


# --- check ------------------------------------------------------------------------------------------------------------


async def test_check_prints_five_mistakes_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FIVE_MISTAKES)
    status, stdout, stderr = await gateway_command("check", "-c", file)
    assert status == 2
    lines = (stdout + stderr).splitlines()
    places = [re.match(rf"{re.escape(str(file))}:(\d+):(\d+): ([\w.\[\]]+): .+ \(.+\)$", line) for line in lines]
    assert all(places), lines
    found = {(int(place[1]), int(place[2]), place[3]) for place in places if place}
    assert {line for line, _, _ in found} >= {1, 3, 5, 8, 11}
    assert (1, 10, "workers") in found
    assert any(key.endswith("adress") for _, _, key in found)
    assert any(key == "timeouts.connect" for _, _, key in found)
    assert any(key.startswith("upstreams.chat.backends") for _, _, key in found)
    assert any(key.startswith("routes") and key.endswith("upstream") for _, _, key in found)


async def test_check_says_that_a_file_is_right(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "listen: [{address: '127.0.0.1:8080'}]\n"
        "upstreams: {chat: {backends: ['${BACKEND:-127.0.0.1:9001}']}}\n"
        "routes: [{name: chat, upstream: chat}]\n"
    )
    status, stdout, _ = await gateway_command("check", "-c", file)
    assert (status, stdout.startswith(f"{file}: ok")) == (0, True)
    status, stdout, stderr = await gateway_command("check", env={"GATEWAY_CONFIG": str(file), "BACKEND": "nonsense"})
    assert status == 2
    assert "nonsense" in stdout + stderr


async def test_check_warns_of_a_backend_that_is_the_gateway_itself(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "listen: [{address: '0.0.0.0:8080'}]\n"
        "upstreams: {chat: {backends: ['127.0.0.1:8080']}}\n"
        "routes: [{name: chat, upstream: chat}]\n"
    )
    status, stdout, stderr = await quick_command("check", "-c", file)
    assert (status, stdout.startswith(f"{file}: ok")) == (0, True)
    assert stderr.startswith(f"{file}:2:31: upstreams.chat.backends[0]: warning: 127.0.0.1:8080 is where this gateway")


async def test_unknown_keys_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "listen: [{address: '127.0.0.1:8080'}]\n"
        "admin: {password: secret}\n"
        "upstreams: {chat: {backends: ['127.0.0.1:9001']}}\n"
        "routes: [{name: chat, upstream: chat}]\n"
    )
    status, stdout, stderr = await quick_command("check", "-c", file)
    assert status == 2
    assert ":2:9: admin.password:" in stdout + stderr


# --- run --------------------------------------------------------------------------------------------------------------


async def test_run_with_a_broken_file_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FIVE_MISTAKES)
    status, _, stderr = await gateway_command("run", "-c", file)
    assert status == 2
    assert len(stderr.splitlines()) >= 5


async def test_run_without_a_file_says_where_it_looked(tmp_path: Path) -> None:
    status, _, stderr = await run([*COMMAND, "run"], cwd=tmp_path, env={"PYTHONPATH": os.getcwd()})
    assert status == 2
    assert "gateway.yaml" in stderr


async def test_run_on_a_port_that_is_taken_exits_with_1(start_gateway: StartGateway, backends: Backends) -> None:
    first = await start_gateway(to_one("127.0.0.1:1"))
    status, _, stderr = await quick_command("run", "-c", first.file)
    assert status == 1
    assert stderr.startswith("gateway: cannot listen on ")
    assert "Traceback" not in stderr


# --- the rest ---------------------------------------------------------------------------------------------------------


async def test_schema_is_a_json_schema() -> None:
    status, stdout, _ = await gateway_command("schema")
    assert status == 0
    schema = json.loads(stdout)
    assert {"listen", "upstreams", "routes"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


async def test_status_and_tunnels(start_gateway: StartGateway, backends: Backends, open_connection: Open) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    await with_one_tunnel(gateway, open_connection)
    for command in ("status", "tunnels"):
        status, stdout, stderr = await quick_command(command, "-c", gateway.file)
        assert status == 0, stderr
        assert "all" in stdout
        assert echo.address in stdout
    status, stdout, _ = await quick_command("tunnels", "-c", gateway.file, "--json")
    (tunnel,) = json.loads(stdout)["tunnels"]
    assert (tunnel["route"], tunnel["path"], tunnel["subprotocol"]) == ("all", "/cli", "v10.stomp")
    status, stdout, _ = await quick_command("tunnels", "-c", gateway.file, "--idle-over", "60s", "--json")
    assert (status, json.loads(stdout)["tunnels"]) == (0, [])
    status, stdout, _ = await quick_command("tunnels", "-c", gateway.file, "--route", "all", "--json")
    assert (status, len(json.loads(stdout)["tunnels"])) == (0, 1)


async def test_status_of_no_gateway_exits_with_1(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "listen: [{address: '127.0.0.1:8080'}]\n"
        "admin: {address: '127.0.0.1:1'}\n"
        "upstreams: {chat: {backends: ['127.0.0.1:9001']}}\n"
        "routes: [{name: chat, upstream: chat}]\n"
    )
    for command in ("status", "tunnels"):
        status, _, stderr = await quick_command(command, "-c", file)
        assert status == 1
        assert "127.0.0.1:1" in stderr
        assert "Traceback" not in stderr


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("run", "--nonsense"), ("check", "extra"), ("tunnels", "--idle-over")]
)
async def test_usage_errors_exit_with_2(arguments: tuple[str, ...]) -> None:
    status, _, stderr = await gateway_command(*arguments)
    assert status == 2
    assert "Error: " in stderr


async def test_help_names_every_command() -> None:
    commands = ("run", "check", "demo", "schema", "status", "tunnels", "reload", "drain", "stop")
    status, stdout, _ = await gateway_command("--help")
    assert status == 0
    for command in commands:
        assert command in stdout
    for status, text, _ in await asyncio.gather(*(quick_command(command, "--help") for command in commands)):
        assert status == 0
        assert "Usage" in text


async def test_the_relay_that_was_asked_for_runs(start_gateway: StartGateway, backends: Backends) -> None:
    gateway = await start_gateway(to_one("127.0.0.1:1"), env={"GATEWAY_RELAY": "pure"})
    assert (await gateway.api("status"))["relay"] == "pure"
    assert "relay pure" in await gateway.stderr.containing("relay")
    status, _, stderr = await gateway_command("run", "-c", gateway.file, env={"GATEWAY_RELAY": "quantum"})
    assert status != 0
    assert "quantum" in stderr


# --- the admin token --------------------------------------------------------------------------------------------------


async def test_commands_send_the_token(start_gateway: StartGateway, backends: Backends, tmp_path: Path) -> None:
    echo = await backends.echo()
    gateway = await start_gateway(to_one(echo.address))
    gateway.write({**to_one(echo.address), "admin": {"address": gateway.admin, "token": "first-token"}})
    await gateway.reload()
    assert (await gateway.get("/api/v1/status"))[0] == 401
    status, out, _ = await quick_command("status", "--json", "-c", gateway.file)
    assert (status, json.loads(out)["ready"]) == (0, True)
    assert (await quick_command("reload", "-c", gateway.file))[0] == 0
    # An address on the command line gets no token but the environment's.
    status, _, err = await quick_command("tunnels", "--admin", gateway.admin)
    assert (status, "asks for another token (set GATEWAY_ADMIN_TOKEN" in err) == (1, True)
    env = {**os.environ, "GATEWAY_ADMIN_TOKEN": "first-token"}
    assert (await quick_command("tunnels", "--admin", gateway.admin, env=env))[0] == 0
    env["GATEWAY_ADMIN_TOKEN"] = "another"
    assert (await quick_command("status", "-c", gateway.file, env=env))[0] == 1
    gateway.write(to_one(echo.address))
    status, _, err = await quick_command(
        "reload", "-c", gateway.file, env={**env, "GATEWAY_ADMIN_TOKEN": "first-token"}
    )
    assert (status, err) == (0, "")
    assert (await gateway.get("/api/v1/status"))[0] == 200
