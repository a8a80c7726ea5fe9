"""Where clients arrive: from an accepted connection to a tunnel, or to aiohttp.

``listener``    accepts connections
``first``       reads a connection's first request head
``request``     what a request asks for: its route, its client, its upgrade; or why it is refused
``forwarding``  the fields that a backend is sent, and those that a client is sent back
``upgrade``     dials a backend, forwards the handshake, opens the tunnel
``declined``    relays the answer of a backend that does not upgrade
``refusal``     answers of the gateway's own
``plain``       every other request, by aiohttp
``addresses``   where backends can be dialled
``edge``        what the parts above share in one worker

Everything on the way to a tunnel runs inside ``Poller.select()``: one callback for each event, no task and no future.
"""
