"""The protocol core: bytes and clock go in, decisions come out. No I/O, and nothing of `gateway` is imported.

``http``      request and response heads (RFC 9110, RFC 9112), by llhttp
``websocket`` the opening handshake (RFC 6455 section 4)
``frames``    control frames that the gateway itself writes (RFC 6455 section 5)
``scanner``   where frames begin and end in a stream that is relayed, not parsed
``closing``   close codes: which may be sent, and how they are labelled (RFC 6455 section 7.4)
"""
