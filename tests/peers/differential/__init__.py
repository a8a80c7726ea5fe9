"""Plain HTTP through the gateway, nginx and HAProxy, in front of the same scripted backend, compared byte for byte.

``rows.py``      the form of a row: what the client sends, what the backend does, the required result, and why a peer
                 differs
``watching.py``  plays a row against one proxy, and records what backend and client got
``sights.py``    what was recorded, in two forms: byte for byte, and without differences of style
``…_rows.py``    the table
"""
