"""Commands import no more than they need before they do what they are called for."""

import subprocess
import sys

import pytest

# aiohttp and prometheus-client take half a second of CPU, ssl's part of it (every authority's certificate) a sixth.
SEES = """
import sys
from gateway.cli import main
main.get_command(None, "{command}")
print(*sorted({{"aiohttp", "prometheus_client", "ssl"}} & sys.modules.keys()))
"""


@pytest.mark.parametrize("command", ["run", "demo", "status", "reload"])
def test_no_aiohttp_before_the_workers_are_started(command):
    program = SEES.format(command=command)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "aiohttp" not in done.stdout
    assert "prometheus_client" not in done.stdout


def test_a_worker_imports_what_methods_need_only_for_a_route_that_asks_for_them():
    needed = {"argon2", "bcrypt", "jwt", "aiohttp", "cryptography"}
    program = f"import sys, gateway.processes.worker; print(*sorted({needed} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


SUPERVISOR = """
import sys
from gateway.cli import main
main.get_command(None, "run")
from gateway.processes.template import _import_all
from gateway.config.unvalidated import import_sections
_import_all()
import_sections()
import gateway.cli.running
print(*sorted({needless} & sys.modules.keys()))
"""


def test_a_supervisor_imports_no_more_than_it_needs():
    """Each of these would take as much memory as a thousand idle tunnels, or much more."""
    needless = {"aiohttp", "bz2", "decimal", "email", "html", "http.client", "http.server", "lzma", "pydantic", "yaml"}
    program = SUPERVISOR.format(needless=needless)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
