"""The upgrade gateway: a reverse proxy for WebSocket servers that knows, keeps alive and explains every link.

Data flows through the packages in one direction::

    edge -> protocol (the request's head) -> routing -> edge (the handshake) -> tunnels -> observe

``processes`` has the supervisor and the workers, ``config`` the configuration, ``cli`` the command line.
ARCHITECTURE.md is the map, docs/decisions/ has the reasons.
"""

from gateway.build import prefer_pure_sources
from gateway.version import VERSION

__all__ = ["VERSION"]

prefer_pure_sources()
