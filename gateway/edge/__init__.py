"""The edge: from an accepted connection to a tunnel, or to an answer.

``listener``      accepts connections
``handshaking``   shakes hands with clients that speak TLS; ``tls/`` has what that needs
``client``        a client's connection: reads heads, one request after another (what they share: ``clients``)
``request``       what a request asks for: its route, its client, its upgrade; or why it is refused (``refused``)
``upgrade``       dials a backend, forwards the handshake, checks the answer, opens the tunnel (``splicing``)
``exchange/``     every other request: relays it and its answer
``dialling``      connects to one backend after another; ``pool`` keeps connections; ``addresses`` has where they lead
``forwarding``    which fields go on; ``to_backend`` writes the heads that backends get
``facts``, ``known_answers``, ``accepted``  what was read once of heads that come again and again
``trust``         which peers are proxies of the operator's, and which client a request comes from
``in_force``      the configuration in force; ``owner`` owns the rows of tunnels; ``deadlines`` has all others' time
``passage``       moves connections between two requests to the worker that replaces this one
``wire/``         what carries a connection's bytes
``edge``          all of it, put together for one worker

Everything runs inside ``Poller.select()``: one callback for each event, no task and no future. Imports point down only;
``make check`` holds the order.
"""
