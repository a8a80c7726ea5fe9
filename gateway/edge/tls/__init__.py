"""TLS handshakes, toward clients and toward backends. OpenSSL makes them; what comes after is ``wire/tls.py``.

``handshake``  one handshake, fed one record at a time, which ends with the cells of a session (``protocol/tls/``)
``backends``   what the handshakes with an upstream's backends have in common
``contexts``   what OpenSSL is allowed: versions, suites, groups, certificates
``names``      which certificate a client is shown
``peers``      what a client's certificate says, as fields for backends
``turns``      bounds what a turn of the poller spends on handshakes
``secrets``    how the keys leave OpenSSL: by ``callback``, or through a pipe
``openssl``    finds the OpenSSL behind Python's ``ssl``
``reasons``    why a handshake failed, in the words of log lines and metrics
"""
