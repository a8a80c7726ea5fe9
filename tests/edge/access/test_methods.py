"""What a worker imports, whose routes ask for no credentials."""

import subprocess
import sys

PROGRAM = """
import sys
import gateway.processes.worker, gateway.edge.edge
print(sorted({"jwt", "argon2", "bcrypt", "aiohttp"} & sys.modules.keys()))
"""


def test_what_no_route_needs_is_not_imported():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
