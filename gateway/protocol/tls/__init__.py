"""TLS after its handshake: records, keys, alerts (RFC 8446, RFC 5246). No I/O, no clock.

OpenSSL shakes hands (``edge/tls/``). After that everything a connection needs is a run of 64-bit cells, a *session*
(``state.py``): keys, IVs, sequence numbers. A session may lie in a row of the shared table, so that another process can
carry the connection on.

* ``schedule.py`` computes a session from the secrets of the key log (``keylog.py``), and new keys for a KeyUpdate
* ``traffic.py`` derives the keys of a direction; ``traffic.pyx`` is its compiled build
* ``protection.py`` seals and opens one record (AEAD); ``protection.pyx`` is its compiled build
* ``records.py`` seals and opens streams of records, and acts on alerts and messages after the handshake
"""
