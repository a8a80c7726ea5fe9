"""Integers that a .pxd declares for the compiled build are bound in the .py beside it: an unbound one is silently 0."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.either_build

ROOT = Path(__file__).parents[2]
DECLARED = re.compile(r"^cdef int64_t ([A-Za-z0-9_, ]+)$", re.MULTILINE)


def declared(path):
    text = path.read_text()
    return {name.strip() for names in DECLARED.findall(text) for name in names.split(",")}


def bound(path):
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize(
    ("module", "some"),
    [
        ("gateway/edge/splicing", {"KIND", "NEVER"}),
        ("gateway/observe/ends", {"NEITHER", "ROUTE"}),
        ("gateway/protocol/bodies", {"_DATA", "_LARGEST_BEFORE_DIGIT"}),
        ("gateway/protocol/headers", {"_LARGEST"}),
        ("gateway/protocol/pings", {"PAYLOAD", "PONG"}),
        ("gateway/protocol/scanner", {"BINARY", "STATUS"}),
        ("gateway/protocol/tls/records", {"ALERT", "VERSION"}),
        ("gateway/tunnels/relay/deadlines", {"OPEN", "NEVER"}),
        ("gateway/tunnels/relay/ending", {"CLOSE_FRAME", "DRAIN"}),
        ("gateway/tunnels/relay/failing", {"T_FAULTS", "QUIET_NS"}),
        ("gateway/tunnels/relay/limiting", {"LIMIT", "MESSAGE_NS"}),
        ("gateway/tunnels/relay/metering", {"PEEKED_BELOW", "TLS"}),
        ("gateway/tunnels/relay/pinging", {"PING_TAG", "SECOND"}),
        ("gateway/tunnels/relay/reading", {"EAGAIN", "DIRTY", "NOT_READ"}),
        ("gateway/tunnels/relay/relay", {"RELEASED", "DIRTY"}),
        ("gateway/tunnels/relay/sealed", {"CLOSE_NOTIFY", "TRUNCATED"}),
        ("gateway/tunnels/relay/streams", {"REGISTERED", "PENDING"}),
        ("gateway/tunnels/table/slice", {"BACKEND", "LONG_TEXTS"}),
        ("gateway/tunnels/upkeep/attribution", {"FIN", "SCANNER"}),
        ("gateway/tunnels/upkeep/sweep", {"LIVE", "EARLIEST"}),
    ],
)
def test_declared_names_are_bound(module, some):
    names = declared(ROOT / f"{module}.pxd")
    assert some <= names
    assert names <= bound(ROOT / f"{module}.py")


@pytest.mark.parametrize(
    "module",
    [
        "gateway/observe/ends",
        "gateway/protocol/bodies",
        "gateway/protocol/headers",
        "gateway/protocol/pings",
        "gateway/protocol/scanner",
        "gateway/protocol/tls/records",
        "gateway/tunnels/relay/deadlines",
        "gateway/tunnels/relay/ending",
        "gateway/tunnels/relay/failing",
        "gateway/tunnels/relay/limiting",
        "gateway/tunnels/relay/metering",
        "gateway/tunnels/relay/pinging",
        "gateway/tunnels/relay/reading",
        "gateway/tunnels/relay/relay",
        "gateway/tunnels/relay/sealed",
        "gateway/tunnels/relay/streams",
        "gateway/tunnels/upkeep/attribution",
        "gateway/tunnels/upkeep/sweep",
    ],
)
def test_no_declaration_is_overlooked(module):
    """Every module-level variable is of the form that the test above reads."""
    lines = (ROOT / f"{module}.pxd").read_text().splitlines()
    variables = [line for line in lines if re.match(r"cdef (?!class)[^(]*$", line)]
    assert variables
    assert all(DECLARED.fullmatch(line) for line in variables)
