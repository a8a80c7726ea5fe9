"""``gateway probe``: after how much silence does the path to a server cut a tunnel, and how?

It opens tunnels through everything on the path, leaves each silent for a different time, and observes the outcome. A
tunnel that is ended during its silence (FIN, RST, Close frame) shows the time-out at once. Any other is sent a Ping
after its silence: if that is answered, the path tolerates the silence; if not, it has silently forgotten the tunnel.

``target``    what to open: URL and header fields, checked
``endpoint``  the client's end of a tunnel: handshake and frames; pure
``outcomes``  the possible outcomes for one tunnel
``evidence``  what the outcomes prove
``planner``   which silences to try next, and the verdict; pure, driven by outcomes
``culprits``  products that cut tunnels by default, and after how long
``report``    the verdict in words and as JSON
``hints``     why a tunnel could not be opened, and what to do
``tunnel``    one connection, and holding it silent
``probe``     runs the planner's rounds of tunnels
"""
