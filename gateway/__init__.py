"""The upgrade gateway: a reverse proxy for WebSocket servers that knows, keeps alive and explains every link.

Data walks through the packages in one direction::

    edge -> protocol (the request's head) -> routing -> edge (the handshake) -> tunnels -> observe

``processes`` holds the supervisor and the workers, ``config`` what operators write, ``cli`` what they type.
ARCHITECTURE.md is the map, docs/decisions/ has the reasons.
"""

from gateway.build import prefer_pure_sources
from gateway.version import VERSION

__all__ = ["VERSION"]

prefer_pure_sources()
