"""How one of an upstream's backends is chosen: a policy a file.

``target``           a backend, as policies choose among them
``standing``         what policies know of backends at the moment: state and load
``weights``          weights, which grow after a return (slow start)
``loads``            loads of many backends at once
``turns``            turns by weight, evenly spread
``rendezvous``       which backends a key prefers, in order, the same everywhere
``keys``             what of a request is hashed
``policy``           what every policy does, and which one an upstream has: a new one is listed there
``round_robin``      each in turn, by weight
``least_tunnels``    the one with the fewest tunnels and requests for its weight
``random_two``       the less loaded of two drawn at random
``consistent_hash``  the first choice of the request's key
``sticky``           the one that the client's cookie names
"""

from gateway.routing.balancing.policy import Key, Policy, policy_of
from gateway.routing.balancing.standing import Standing
from gateway.routing.balancing.target import Target

__all__ = ["Key", "Policy", "Standing", "Target", "policy_of"]
