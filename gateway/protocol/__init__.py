"""The protocol core: bytes and clock go in, decisions come out. No I/O, and nothing of `gateway` is imported.

``heads``     what is known of a head that was read; ``requests`` and ``answers`` read them (RFC 9110, RFC 9112)
``wellformed`` whether the fields of a head are well-formed, by llhttp
``framing``   which body a head announces; ``bodies`` finds its end (RFC 9112 sections 6 and 7)
``fields``    which fields go on, and heads as bytes
``target``    request targets: the path that routes see, the form that backends get
``websocket`` the opening handshake (RFC 6455 section 4)
``frames``    control frames that the gateway itself writes (RFC 6455 section 5)
``scanner``   where frames begin and end in a stream that is relayed, not parsed
``closing``   close codes: which may be sent, and how they are labelled (RFC 6455 section 7.4)
"""
