"""What the pages for users say is what the code does.

A ```yaml block whose first line is ``# gateway.yaml`` is a whole configuration. One in ``docs/`` without that line is a
part of one, and is completed with what it leaves out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config, ConfigError, json_schema, parse
from tests.conftest import Backends, StartGateway
from tests.docs.pages import COMPLETE, DOCS, PAGES, ROOT, WITH_MISTAKES, Block, blocks, codes, rows
from tests.support.gateway import route
from tests.support.ports import free_port
from tests.support.raw import eventually_refuses

CONFIGURATION = ROOT / "docs" / "configuration.md"
METRICS = ROOT / "docs" / "metrics.md"
YAML_BLOCKS = blocks("yaml")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def _completed(text: str) -> str:
    """A part of a configuration, with what it lacks."""
    part = yaml.safe_load(text)
    more: dict[str, Any] = {"listen": [{"address": "127.0.0.1:8080"}]}
    used = {share["name"] for route in part.get("routes", []) for share in route.get("upstreams", [])}
    used |= {route["upstream"] for route in part.get("routes", []) if "upstream" in route}
    names = used | set(part.get("upstreams", {})) or {"any"}
    more["upstreams"] = {name: {"backends": ["127.0.0.1:9001"]} for name in sorted(names)}
    more["routes"] = [{"name": "any", "upstream": min(names)}]
    return text + yaml.safe_dump({key: value for key, value in more.items() if key not in part})


@pytest.mark.parametrize("block", [b for b in YAML_BLOCKS if b.first_line == COMPLETE], ids=str)
def test_a_whole_configuration_is_right(block: Block) -> None:
    assert isinstance(parse(block.text, str(block), {}), Config)


@pytest.mark.parametrize(
    "block", [b for b in YAML_BLOCKS if b.page in DOCS and not b.first_line.startswith(COMPLETE)], ids=str
)
def test_a_part_of_a_configuration_is_right(block: Block) -> None:
    assert isinstance(parse(_completed(block.text), str(block), {}), Config)


def test_mistakes_are_told_as_shown() -> None:
    everything = blocks("yaml", "text")
    found = [at for at, block in enumerate(everything) if block.first_line == WITH_MISTAKES]
    assert found
    for at in found:
        with pytest.raises(ConfigError) as raised:
            parse(everything[at].text, "gateway.yaml", {})
        assert str(raised.value) == everything[at + 1].text.strip()


def test_the_file_with_every_key_has_every_key() -> None:
    (block, *_) = [block for block in YAML_BLOCKS if block.page == CONFIGURATION]
    written = set(_paths_of(yaml.safe_load(block.text)))
    left_out = {path for path in _schema_keys() if path not in written}
    assert {path for path in left_out if not path.startswith(("routes[].timeouts.", "routes[].keepalive."))} == set()


def _paths_of(value: object, path: str = "") -> set[str]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, item in value.items():
            step = "NAME" if path == "upstreams" else key
            found |= _paths_of(item, f"{path}.{step}" if path else step)
    elif isinstance(value, list):
        for item in value:
            found |= _paths_of(item, f"{path}[]")
    return found


# --- keys -------------------------------------------------------------------------------------------------------------


def _schema_keys() -> dict[str, dict[str, Any]]:
    """Every key of the schema by its path, as the page writes it, with what the schema says of it."""
    schema = json_schema()
    found: dict[str, dict[str, Any]] = {}

    def resolved(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return resolved(schema["$defs"][node["$ref"].rpartition("/")[2]])
        if "anyOf" in node:
            return [part for each in node["anyOf"] for part in resolved(each)]
        return [node]

    def walk(node: dict[str, Any], path: str) -> None:
        for part in resolved(node):
            required = part.get("required", [])
            for key, value in part.get("properties", {}).items():
                below = f"{path}.{key}" if path else key
                found[below] = {**value, "required": key in required}
                walk(value, below)
            for value in (*part.get("patternProperties", {}).values(), part.get("additionalProperties")):
                if isinstance(value, dict):
                    walk(value, f"{path}.NAME")
            if "items" in part:
                walk(part["items"], f"{path}[]")

    walk(schema, "")
    return found


def _documented_keys() -> dict[str, str]:
    """Every key in the page's tables, with the default that stands there."""
    found = {}
    for row in rows(CONFIGURATION, "## Keys"):
        (key,) = codes(row[0])
        assert key not in found, f"{key} is there twice"
        found[key] = row[2]
    return found


def test_every_key_is_documented_and_no_other() -> None:
    assert set(_documented_keys()) == set(_schema_keys())


_IN_WORDS = {
    "routes[].respond.body": "empty",
    "upstreams.NAME.backends": "required without `discover`",
    "upstreams.NAME.discover.server": "the system's",
} | dict.fromkeys(
    (
        *(f"upstreams.NAME.{key}" for key in ("discover", "discover.dns", "discover.srv", "discover.file")),
        *(f"routes[].{key}" for key in ("upstream", "upstreams", "redirect", "respond")),
        *(f"routes[].{key}" for key in ("rewrite", "headers", "answer_headers")),
        *(f"routes[].rewrite.{key}" for key in ("strip_prefix", "add_prefix", "regex")),
    ),
    "none",
)
OF_THEIR_OWN = {"upstreams.NAME.hash_on": "client_ip"}
"""Keys without a default in the schema, as they may be there only beside another one."""


def test_defaults_are_as_documented() -> None:
    schema, wrong = _schema_keys(), {}
    for key, said in _documented_keys().items():
        if schema[key]["required"]:
            expected = "required"
        elif key in _IN_WORDS:
            expected = _IN_WORDS[key]
        elif key.startswith("routes[].timeouts."):
            expected = "of `timeouts`"
        elif key.startswith("routes[].keepalive."):
            expected = "of `keepalive`"
        elif key.startswith("routes[].auth") and "default" not in schema[key] and not said.startswith("`"):
            continue  # what there is without them is said in words
        elif key.startswith("routes[].limits"):
            expected = "one second's worth" if key.endswith(".burst") else "off"
        elif re.fullmatch(r"routes\[\]\.auth(\.(basic|jwt|forward))?", key):
            expected = "off"
        elif key.startswith("routes[].match.") or key in ("routes[].origins", "routes[].allow"):
            expected = "any"
        elif key == "upstreams.NAME.backends[].max_tunnels":
            expected = "any number"
        elif key == "upstreams.NAME.health_check.host":
            expected = "the backend's address"
        elif key.startswith("upstreams.NAME.health_check.") and "default" not in schema[key]:
            expected = "none"
        elif key == "upstreams.NAME.sticky.secret":
            expected = "the gateway's own"
        elif key == "admin.token" or ((".tls." in key or key == "listen[].tls") and "default" not in schema[key]):
            expected = "none"
        else:
            default = OF_THEIR_OWN.get(key, schema[key].get("default"))
            if isinstance(default, bool):
                default = str(default).lower()
            if default is None:
                default = [] if schema[key].get("type") == "array" else {}
            expected = f"`[{', '.join(default)}]`" if isinstance(default, list) else f"`{default}`"
        if said != expected:
            wrong[key] = (said, expected)
    assert wrong == {}


@pytest.mark.asyncio(loop_scope="module")
async def test_what_needs_a_restart_is_as_documented(
    start_gateway: StartGateway, tmp_path: Path, backends: Backends
) -> None:
    """Each key is changed in the file of a gateway that runs."""
    echo = await backends.echo()
    base = {
        "upstreams": {"one": {"backends": [echo.address]}},
        "routes": [route("all", "one", "/")],
    }
    changes: dict[str, Any] = {
        "workers": 2,
        "max_tunnels": 100,
        "listen": [{"address": f"127.0.0.1:{free_port()}"}],
        "trusted_proxies": ["192.0.2.0/24"],
        "admin": {"address": f"127.0.0.1:{free_port()}"},
        "heads": {"max_size": "16KiB"},
        "underscores": "pass",
        "access_log": {"path": str(tmp_path / "access.log")},
        "timeouts": {"idle": "1h"},
        "keepalive": {"client": "off"},
        "drain": {"period": "1m"},
        "upstreams": {"one": {"backends": [echo.address], "balance": "round_robin"}},
        "routes": [route("other", "one", "/")],
    }
    assert changes.keys() == json_schema()["properties"].keys()
    gateway = await start_gateway(base)
    gateway.tolerate("reload failed")
    fixed = set()
    for key, value in changes.items():
        gateway.write(yaml.safe_dump({**gateway.config, key: value}))
        await gateway.reload()
        if key == "listen":
            await eventually_refuses(gateway.address)  # as the next reload goes back to it
        if not (await gateway.api("status"))["configuration"]["last_reload"]["ok"]:
            fixed.add(key)
    documented = {
        codes(row[0])[0].partition(".")[0].partition("[")[0]
        for row in rows(CONFIGURATION, "## Keys")
        if row[3] == "fixed"
    }
    assert documented == fixed


# --- snippets of other programs ---------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize("block", blocks("nginx"), ids=str)
def test_nginx_takes_what_is_said_to_be_of_nginx(block: Block, tmp_path: Path) -> None:
    text = block.text.replace("unix:/run/", f"unix:{tmp_path}/").replace("/var/log/nginx/", f"{tmp_path}/")
    text = re.sub(r"(listen (?:\[::\]:)?)8080", r"\g<1>28080", text)
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log {tmp_path}/log;\n{text}\n}}\n"
    )
    done = subprocess.run(["nginx", "-t", "-p", tmp_path, "-c", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_every_query(tmp_path: Path) -> None:
    queries = [block.text.strip() for block in blocks("promql")]
    assert queries
    rules = [{"record": f"docs:query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "docs", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them from headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_what_the_threat_model_calls_a_test_is_there() -> None:
    named = set(re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "security.md").read_text()))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()
