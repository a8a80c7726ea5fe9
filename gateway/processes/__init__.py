"""The processes of a gateway: one supervisor, and the workers that it starts as fresh interpreters.

``supervisor`` owns what outlives a worker: listening sockets, the table, names' numbers, the admin API
``worker``     relays
``control``    what the two say to each other
``listening``  opens listening sockets
``limits``     descriptors
"""
