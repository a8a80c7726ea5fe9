"""The processes of a gateway: one supervisor, and the workers that it starts as fresh interpreters.

``supervisor``   owns what outlives a worker: listening sockets, the table, names' numbers, the admin API
``worker``       relays
``control/``     what the two say to each other
``acceptors``    a worker's listening sockets
``resolving``    looks up names of backends, for all workers; ``lookups`` decides which when
``fdstore``      keeps the connections of tunnels for a worker's successor
``orders``       what the supervisor is told to do, one thing after another
``upgrade``      becomes a new program in place
``inheritance``  what that program finds
``heartbeat``    which workers hang
``children``     processes that are waited for
``listening``    opens listening sockets
``notify``       tells the service manager
``limits``       descriptors
"""
