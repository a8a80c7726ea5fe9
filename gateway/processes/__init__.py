"""The processes of a gateway: one supervisor, and the workers that it starts as fresh interpreters.

``supervisor``   owns what outlives a worker: listening sockets, the table, the numbers of names, the admin API
``worker``       relays
``control/``     messages between the two
``acceptors``    a worker's listening sockets
``resolving``    looks up backend names for all workers; ``lookups`` schedules the lookups
``fdstore``      keeps the connections of tunnels open for a worker's successor
``orders``       the supervisor's queue of orders, from signals and the admin API
``upgrade``      replaces the running program in place
``inheritance``  the state that the new program inherits
``heartbeat``    detects workers that hang
``children``     waits for child processes
``listening``    opens listening sockets
``notify``       reports to the service manager
``limits``       the limit of open descriptors
"""
