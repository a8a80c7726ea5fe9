"""``gateway probe``: after how long a silence does the path to a server cut a tunnel, and how?

It opens tunnels through whatever lies on the path, leaves each silent for a time of its own, and looks what becomes of
it. A tunnel that is ended meanwhile (FIN, RST, Close frame) tells the time-out at once. Any other gets a Ping when its
time is over: answered, the path tolerates that silence; else it has silently forgotten the tunnel.

``target``    what to open: URL and header fields, checked
``endpoint``  the client's end of a tunnel: handshake and frames; pure
``outcomes``  what can become of one tunnel
``evidence``  what outcomes prove
``planner``   which silences to try next, and the verdict; pure, driven by outcomes
``culprits``  who is known to cut by default, and when
``report``    the verdict in words and as JSON
``tunnel``    one connection, and how it is held silent
``probe``     rounds of tunnels, as the planner asks for them
"""
