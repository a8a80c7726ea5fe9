"""Which backend gets this request: routes, in order; then a backend of the route's upstream.

``routes``    what a request must look like, and what a matching one gets
``balancing`` how one of an upstream's backends is chosen: a policy a file
``attempts``  which backend and address a tunnel or request tries next
``registry``  numbers for the names of routes and backends, as rows of the shared table hold them
"""
