"""One plain HTTP request on its way to a backend, and its answer on the way back, relayed by the poller's callbacks.

Bodies go as tunnels do: received into the worker's one buffer, looked at for where they end, sent. What a socket did
not take waits, and until it is gone the other side is not read. An exchange has no task and no timer.

One class in four files, each of which knows only those before it: ``sides.py`` (two sockets: what waits, what epoll
watches), ``upload.py`` (the request's body), ``answer.py`` (the answer), ``exchange.py`` (backends, retries, ends).
"""
