"""How one of an upstream's backends is chosen: a policy a file.

``target``         a backend, as policies choose among them
``policy``         what every policy does, and which one an upstream has: a new one is listed there
``turns``          turns by weight, evenly spread: what the policies below have in common
``round_robin``    each in turn, by weight
``least_tunnels``  the one with the fewest tunnels and requests for its weight
"""

from gateway.routing.balancing.policy import Key, Policy, policy_of
from gateway.routing.balancing.target import Target

__all__ = ["Key", "Policy", "Target", "policy_of"]
