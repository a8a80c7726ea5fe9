"""Plain HTTP through the gateway, nginx and HAProxy, in front of the same scripted backend, compared byte for byte.

``rows.py``      the form of a row: what a client sends, what the backend does, what ours must make of it, and why a
                 peer makes something else of it
``watching.py``  plays a row against one proxy, and notes what backend and client got
``sights.py``    what was noted, in two forms: to the byte, and without what proxies do differently as a matter of style
``…_rows.py``    the table
"""
