"""The key log's lines (draft-ietf-tls-keylogfile, NSS Key Log Format): ``LABEL client_random secret``, in hexadecimal.

The log is never on disk (``edge/tls/secrets.py``).
"""

from __future__ import annotations

MASTER = "CLIENT_RANDOM"
CLIENT_TRAFFIC = "CLIENT_TRAFFIC_SECRET_0"
SERVER_TRAFFIC = "SERVER_TRAFFIC_SECRET_0"
WANTED = frozenset((MASTER, CLIENT_TRAFFIC, SERVER_TRAFFIC))


def secrets_of(lines: bytes) -> dict[str, bytes]:
    """The secrets that protect application data, by label. All lines must be of one handshake.

    :raises ValueError: a line is not of this form
    """
    found = {}
    for line in lines.splitlines():
        if not line or line.startswith(b"#"):
            continue
        label, _, rest = line.partition(b" ")
        name = label.decode("ascii", "replace")
        if name in WANTED:
            _, _, secret = rest.partition(b" ")
            if not secret:
                raise ValueError(f"a line of the key log with the label {name} has no secret")
            found[name] = bytes.fromhex(secret.decode("ascii", "replace"))
    return found
